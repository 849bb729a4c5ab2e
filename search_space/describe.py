"""Prints one network layer by layer, and what it costs: `python -m search_space.describe dssdn-large --input 431x256`."""

from __future__ import annotations

import json
from typing import Any

from search_space.comparators import COMPARATORS
from search_space.complexity import BYTES, count_network, parse_input
from search_space.errors import Parser, open_console, run_command
from search_space.families import FAMILIES, family_of
from search_space.presets import DESCRIBED, NETWORKS, check_network, preset_name, resolve


def describe(network: str, input: tuple[int, int], n_classes: int) -> dict[str, Any]:
    """All there is to say about a network of any name, ready for JSON; `input` is (frames, mels), shapes are [C, T, F].

    `macs_by` is by convention (`search_space.complexity`), the bytes by the type that numbers are kept in, the receptive
    field [frames, mels] of one position of the last map. A comparator has no architecture (null); its name stands under
    `preset`, and its layers are those of a trace.

    Raises `UserError` when the text names no network, when there are fewer than two classes, and on an input that is too small.
    """
    check_network(network)
    architecture = None if network in COMPARATORS else resolve(network)
    cost = count_network(network, input, n_classes)
    return {
        "architecture": architecture and str(architecture),
        "preset": preset_name(architecture) if architecture else network,
        "input": list(input),
        "n_classes": n_classes,
        "params": cost.params,
        "macs": cost.macs,
        "macs_by": dict(cost.macs_by),
        "param_bytes": {dtype: cost.param_bytes(dtype) for dtype in BYTES},
        "peak_activation_bytes": {dtype: cost.peak_activation_bytes(dtype) for dtype in BYTES},
        "receptive_field": list(cost.receptive_field),
        "layers": [layer._asdict() for layer in cost.layers],
    }


def main(argv: list[str] | None = None) -> int:
    """The command: a table for people, or with `--json` one JSON document on stdout."""
    parser = Parser(prog="python -m search_space.describe", description=__doc__)
    parser.add_argument(
        "network", help=f"{', '.join((*DESCRIBED, *COMPARATORS))}, or a notation such as {NETWORKS['dssdn-large']}"
    )
    parser.add_argument("--input", default="431x256", help="frames x mels (default: 431x256, the paper's 10 s)")
    parser.add_argument("--classes", type=int, default=10, help="number of classes (default: 10)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args(argv)
    network = describe(arguments.network, parse_input(arguments.input), arguments.classes)
    if arguments.json:
        print(json.dumps(network))
    else:
        _print_table(network)
    return 0


def _print_table(network: dict[str, Any]) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, caption="MACs: convolutions and linear layers of one clip, biases not counted")
    table.add_column("layer", no_wrap=True)
    table.add_column("kind")
    for heading in ("C x T x F", "params", "MACs"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = None
    for layer in network["layers"]:
        name = layer["name"]
        first, *_ = names = name.split(".")
        part = names[: {"blocks": 2, "stages": 3}.get(first, 1)]
        if last not in (None, part):
            table.add_section()
        last = part
        shape = " x ".join(map(str, layer["shape"]))
        table.add_row(name, layer["kind"], shape, f"{layer['params']:,}", f"{layer['macs']:,}")
    table.add_section()
    table.add_row("total", "", "", f"{network['params']:,}", f"{network['macs']:,}", style="bold")
    frames, mels = network["input"]
    console = open_console()
    if network["preset"]:
        console.print(network["preset"], style="bold")
    if network["architecture"]:
        console.print(network["architecture"], soft_wrap=True)
        if FAMILIES[family_of(resolve(network["architecture"]))].form == "deployed":
            console.print("counted as it is deployed: batch norm folded into convolutions, branches merged")
    console.print(f"input {frames} frames x {mels} mels, {network['n_classes']} classes")
    console.print(table)
    facts = Table(box=None, show_header=False, pad_edge=False)
    for convention, macs in network["macs_by"].items():
        facts.add_row(f"MACs, {convention}", f"{macs:,}")
    for what in ("param_bytes", "peak_activation_bytes"):
        by_type = ", ".join(f"{size:,} as {dtype}" for dtype, size in network[what].items())
        facts.add_row(what.replace("_", " "), by_type)
    facts.add_row("receptive field", "{} frames x {} mels".format(*network["receptive_field"]))
    console.print(facts)


if __name__ == "__main__":
    run_command(main)
