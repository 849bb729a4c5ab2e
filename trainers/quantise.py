"""A finished run's network in int8: `python -m trainers.quantise RUN [--how ptq]`, floats against int8 on val.

The ranges of its maps are read from clips of train. The run is not changed; what is made lies in RUN/export: int8.safetensors (int8 tensors and
scales), int8.json (what is printed) and, where onnx and onnxruntime are installed and it decides like torch, network-int8.onnx. Test is not read.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from search_space.complexity import count_network
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.rounding import per_cent
from trainers import programs
from trainers.inputs import load_inputs
from trainers.loop import predictions
from trainers.opening import reopen_data
from trainers.quantisation import check_torchao, post_training, save_int8
from trainers.recorded import load_model
from trainers.runs import INT8, Run, write_atomic


def quantise(run: Run, console: Console) -> dict[str, Any]:
    """Quantise a finished run's network after its training, and write it beside the run; accuracies (0 to 1) and bytes of both forms.

    Raises `UserError` when the run has no weights or its data is not there.
    """
    check_torchao()
    config, final = run.config, run.final
    normalise, model = load_model(run, "float32")
    dataset, features = reopen_data(console, config["data"])
    frames, mels = config["train_input"]
    inputs = load_inputs(dataset, features, size=(frames, mels))
    mean_F, std_F = normalise.get_buffer("mean_F"), normalise.get_buffer("std_F")
    if not (
        torch.equal(mean_F, inputs.mean_F) and torch.equal(std_F, inputs.std_F)
    ):  # fewer clips were trained on than there are
        inputs = type(inputs)(inputs.splits, mean_F, std_F, inputs.classes)
    int8, device = post_training(model, inputs), torch.device("cpu")
    said = {name: predictions(net, inputs, "val", device) for name, net in (("float32", model), ("int8", int8))}
    size, cost = int8.size(), count_network(final["architecture"], tuple(config["input"]), len(inputs.classes))
    agreement = float((said["float32"].probabilities_NK.argmax(1) == said["int8"].probabilities_NK.argmax(1)).mean())
    home = run.path / "export"
    home.mkdir(exist_ok=True)
    notes = {"architecture": final["architecture"], "precision": "int8-ptq", "train_input": [frames, mels]}
    save_int8(home / INT8, int8, (mean_F, std_F), notes)
    document: dict[str, Any] = {
        "run": str(run.path),
        "architecture": final["architecture"],
        "how": "ptq",
        "data": config["data"]["name"],
        "synthetic": config["data"]["synthetic"],
        "val_clips": len(said["int8"].labels_N),
        "val_accuracy": {name: predicted.accuracy for name, predicted in said.items()},
        "agreement": agreement,
        "param_bytes": {"float32": cost.param_bytes(), "int8": size.params},
        "scale_bytes": size.scales,
        "files": [str(home / INT8)],
    }
    path = home / "network-int8.onnx"
    try:
        programs.check_onnx_installed()
        path.unlink(missing_ok=True)  # one of before would be of other weights
        network = nn.Sequential(normalise, int8).eval()
        probe = programs.find_probe(run, network, programs.INT8_PROBES)
        program = programs.make_onnx_int8(network, probe, programs.metadata(run))
    except UserError as error:
        document["onnx_refused"] = str(error)
        console.print(f"no ONNX file: {error}", markup=False, soft_wrap=True)
    else:
        write_atomic(path, lambda file: file.write(program.content))
        document["files"].append(str(path))
        document["onnx_agreement"] = program.agreement
    write_atomic(home / "int8.json", lambda file: file.write(json.dumps(document, indent=1).encode() + b"\n"))
    return document


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m trainers.quantise", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run's folder")
    parser.add_argument(
        "--how", choices=["ptq"], default="ptq", help="after training; in training is --precision of trainers.retrain"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    console = open_console(stderr=options.json)
    document = quantise(Run(options.run), console)
    if options.json:
        json.dump(document, sys.stdout)
        print()
        return 0
    synthetic = " (synthetic data)" if document["synthetic"] else ""
    table = Table(
        "", "val accuracy", "bytes of params", title=f"{document['architecture']} on {document['data']}{synthetic}"
    )
    for name, accuracy in document["val_accuracy"].items():
        table.add_row(name, per_cent(accuracy), f"{document['param_bytes'][name]:,}")
    console.print(table)
    console.print(
        f"both decide alike on {per_cent(document['agreement'])} of {document['val_clips']:,} val clips; {document['scale_bytes']:,} bytes of scales besides",
        soft_wrap=True,
    )
    for path in document["files"]:
        console.print(f"written: {path}", markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    run_command(main)
