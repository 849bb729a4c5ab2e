"""A run's network as a program that runs without this project: ONNX or torch.export, held against torch before anyone gets it.

Either program takes raw log-mels (B, 1, T, F), B free, and gives logits (B, K): the normalisation of the input is its first
step. What one must know to feed it (size, front end, classes) travels inside it.

Legend of array suffixes: B batch, C channels, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import importlib.util
import io
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.export import ExportedProgram
from torch.nn.functional import adaptive_avg_pool2d

from search_space.blocks import merge_branches
from search_space.errors import UserError
from search_space.rounding import per_cent
from trainers.audio import Sound, read_sound
from trainers.datasets import read_listing
from trainers.features import FrontEnd, fitted_logmel
from trainers.quantisation import quiet
from trainers.runs import Run

# Assumed: a hundred times what reordered float32 sums differ by, and far below what changes a decision.
TOLERANCE = 1e-4
PROBES = 8
# Assumed: enough clips to see that an int8 program decides as torch does, few enough to be read at once.
INT8_PROBES = 100
INT8_APART = 1
"""Of up to `INT8_PROBES` clips so many may be decided otherwise: a clip whose two best classes are near one another may fall either way."""
METADATA = "metadata.json"
"""The name under which a torch.export program holds its metadata (`extra_files` of `torch.export.load`)."""

# One, because two of a busy machine wait for each other. Measured: torch with 2 threads beside two other processes, 2 cores:
# 1,710 ms for a clip that takes 4 with 1 thread (python -m studies.export, a candidate at 72x64).
THREADS = 1
"""Threads that torch and ONNX programs run on while they are timed."""

_NEEDED = ("onnx", "onnxscript", "onnxruntime")
# Assumed: enough for a median; the second bound keeps large networks from being timed for minutes.
_ROUNDS, _ROUNDS_S, _LEAST_ROUNDS = 50, 3.0, 7

Call = Callable[[NDArray[np.float32]], NDArray[np.float32]]


class Refused(UserError):
    """A program that does not say what torch says, and is therefore not to be handed out; what else was made holds."""


@dataclass(frozen=True)
class Probe:
    """Log-mels (B, 1, T, F) that a program and its network are compared on.

    They are the run's val clips `filenames`, of which it once said `recorded_BK`; or random ones, without names, and `why`.
    """

    logmel_BCTF: NDArray[np.float32]
    filenames: tuple[str, ...] = ()
    recorded_BK: NDArray[np.float32] | None = None
    why: str = ""

    @property
    def title(self) -> str:
        """What they are, for people."""
        if self.filenames:
            return f"{len(self.filenames)} val clips of the run"
        return f"{len(self.logmel_BCTF)} random inputs ({self.why})"


@dataclass(frozen=True)
class Program:
    """A program's file, `call` as it runs when read back from it, how far its logits are from torch's at most, and on which share of the probe's
    clips both decide alike."""

    content: bytes
    call: Call
    greatest_difference: float
    agreement: float = 1.0


def check_onnx_installed() -> None:
    """Raises `UserError` when ONNX cannot be written or checked here."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"--to onnx needs {', '.join(missing)}: pip install -e '.[export]'")


def as_call(network: nn.Module) -> Call:
    """The network in torch as a function of arrays, in the memory layout that prediction uses."""

    def call(logmel_BCTF: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits_BK: torch.Tensor = network(
                torch.from_numpy(logmel_BCTF).contiguous(memory_format=torch.channels_last)
            )
        return logits_BK.numpy()

    return call


def find_probe(run: Run, network: nn.Module, count: int = PROBES) -> Probe:
    """Up to `count` of the run's val clips, spread evenly over them, made into log-mels as its training made them.

    Only these clips are read, not the whole data. Where they cannot be had, random log-mels with the mean and deviation of
    the training's, always the same ones.
    """
    try:
        return _val_clips(run, count)
    except UserError as error:
        why = f"the val clips are not at hand: {error}"
    normalise = network.get_submodule("0")
    rng = np.random.default_rng(0)
    frames, mels = run.config["train_input"]
    noise_BCTF = torch.from_numpy(rng.standard_normal((count, 1, frames, mels), dtype=np.float32))
    logmel_BCTF = noise_BCTF * normalise.get_buffer("std_F") + normalise.get_buffer("mean_F")
    return Probe(logmel_BCTF.numpy(), why=why)


def probabilities_difference(call: Call, probe: Probe) -> float | None:
    """The greatest difference between the probabilities of today and those that the run recorded of the same clips.

    It is small where the data is what it was; a training under bfloat16 or on a GPU leaves more than rounding. None without
    recorded ones.
    """
    if probe.recorded_BK is None:
        return None
    said_BK = torch.from_numpy(call(probe.logmel_BCTF)).softmax(1).numpy()
    return float(np.abs(said_BK - probe.recorded_BK).max())


def metadata(run: Run) -> dict[str, str]:
    """What one must know to feed the program and read its answer, as text; structures are JSON. No path of a machine."""
    config, data = run.config, run.config["data"]
    frames, mels = config["train_input"]
    full_frames, full_mels = config["input"]
    front_end = FrontEnd(**data["front_end"])
    reduced = (
        f"; the full log-mel of a clip has {full_frames} frames x {full_mels} mels and is brought to this size by area "
        f"average (adaptive average pooling)"
        if (frames, mels) != (full_frames, full_mels)
        else ""
    )
    return {
        "network": run.final["architecture"],
        "input": (
            f"logmel (batch, 1, {frames}, {mels}): ln(mel power + log_floor), centred frames, Hann window, not normalised "
            f"(the program does that){reduced}"
        ),
        "output": "logits (batch, classes)",
        "frames": str(frames),
        "mels": str(mels),
        "full_frames": str(full_frames),
        "full_mels": str(full_mels),
        "classes": json.dumps(data["classes"], ensure_ascii=False),
        "sample_rate": str(front_end.sample_rate),
        "duration_s": str(data.get("duration_s", "")),
        "front_end": json.dumps(data["front_end"]),
        "data": data["name"],
        "synthetic": json.dumps(data["synthetic"]),
        "kind": config.get("kind", ""),
        "git": run.provenance.get("git") or "",
    }


def make_onnx(network: nn.Module, probe: Probe, notes: Mapping[str, str]) -> Program:
    """The network as ONNX with `notes` as its metadata properties, checked with onnxruntime.

    Raises: UserError when it cannot be written, `Refused` when its logits differ from torch's by more than `TOLERANCE`.
    """
    content = _onnx(network, probe, notes)
    call = _onnx_call(content)
    return Program(content, call, _checked("ONNX", call, network, probe))


def make_onnx_int8(network: nn.Module, probe: Probe, notes: Mapping[str, str]) -> Program:
    """An int8 network as ONNX with its roundings as pairs of QuantizeLinear and DequantizeLinear and its weights int8, checked with onnxruntime.

    Logits are no measure here: where a sum lies between two steps, the order of adding decides which it is rounded to, and one step of a map
    moves what follows. What must be alike is what both decide.

    Raises: UserError when it cannot be written, `Refused` when it decides otherwise than torch on more than `INT8_APART` of the probe's clips.
    """
    content = _onnx(network, probe, notes)
    call = _onnx_call(content)
    ours_BK, theirs_BK = call(probe.logmel_BCTF), as_call(network)(probe.logmel_BCTF)
    alike, clips = int((ours_BK.argmax(1) == theirs_BK.argmax(1)).sum()), len(ours_BK)
    agreement = alike / clips
    if not np.isfinite(ours_BK).all() or clips - alike > INT8_APART:
        raise Refused(
            f"the int8 ONNX program decides like torch on {per_cent(agreement)} of {probe.title}: on {clips - alike} of {clips} otherwise, and on at most "
            f"{INT8_APART} it may; it is not written. The int8 weights and their scores are torch's and hold; the float32 network as ONNX is "
            f"`python -m studies.export RUN --to onnx`"
        )
    return Program(content, call, float(np.abs(ours_BK - theirs_BK).max()), agreement)


def _onnx(network: nn.Module, probe: Probe, notes: Mapping[str, str]) -> bytes:
    check_onnx_installed()
    import onnx

    traced = _traced(network, probe)
    with quiet(_TALKATIVE):
        made = torch.onnx.export(traced, input_names=["logmel"], output_names=["logits"], dynamo=True, verbose=False)
    assert made is not None
    model: Any = made.model_proto
    _tidy(model)
    onnx.helper.set_model_props(model, dict(notes))
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def make_pt2(network: nn.Module, probe: Probe, notes: Mapping[str, str]) -> Program:
    """The network as a torch.export program, `notes` in its extra file `METADATA`; read back and compared.

    Raises: `Refused` when its logits differ from torch's by more than `TOLERANCE`.
    """
    traced = _traced(network, probe)
    # Every node remembers the source lines that it came from, with this machine's paths.
    for module in traced.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    file = io.BytesIO()
    with quiet(_TALKATIVE):
        torch.export.save(traced, file, extra_files={METADATA: json.dumps(dict(notes), ensure_ascii=False, indent=1)})
        content = file.getvalue()
        read_back = torch.export.load(io.BytesIO(content)).module()
    call = as_call(read_back)
    return Program(content, call, _checked("torch.export", call, network, probe))


PROGRAMS: dict[str, Callable[[nn.Module, Probe, Mapping[str, str]], Program]] = {"onnx": make_onnx, "pt2": make_pt2}
"""Programs of any network; an int8 one has `make_onnx_int8`."""


def latency_ms(calls: Mapping[str, Call], logmel_BCTF: NDArray[np.float32]) -> dict[str, float]:
    """Milliseconds (median) that each of `calls` takes for one clip, the first of the batch.

    They run in turns, so that what else the machine does meets all of them alike, and torch on `THREADS` threads.
    """
    before_threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return _medians_ms(calls, np.ascontiguousarray(logmel_BCTF[:1]))
    finally:
        torch.set_num_threads(before_threads)


# ------------------------------------------------------------------------------------------------------------- clips


def _val_clips(run: Run, count: int) -> Probe:
    """Raises: UserError where the clips are not there, or were not recorded."""
    config, data = run.config, run.config["data"]
    said = run.predictions("val")
    if said is None or not said.filenames:
        raise UserError("the run recorded no predictions on val")
    if data.get("duration_s") is None:
        raise UserError("the run does not say how long its clips are")
    rows = np.unique(np.linspace(0, len(said.filenames) - 1, count).astype(int))
    names = tuple(said.filenames[row] for row in rows)
    sounds = _sounds(data, names)
    front_end, size = FrontEnd(**data["front_end"]), tuple(config["train_input"])
    made = [fitted_logmel(sound.waveform_N, sound.sample_rate, front_end, data["duration_s"]) for sound in sounds]
    # Float16 in between, because training's features are kept so.
    logmel_BTF = torch.stack(made).half()
    if tuple(logmel_BTF.shape[1:]) != size:
        logmel_BTF = adaptive_avg_pool2d(logmel_BTF.float(), size).half()
    return Probe(logmel_BTF.float().unsqueeze(1).numpy(), names, said.probabilities_NK[rows])


def _sounds(data: Mapping[str, Any], names: tuple[str, ...]) -> list[Sound]:
    if data["source"] == "synthetic":
        from trainers.synthetic import SyntheticDataset

        dataset = SyntheticDataset.generate()
        clips = {clip.filename: clip for clip in dataset.clips}
        _check_named(names, clips)
        return [dataset.load(clips[name]) for name in names]
    if not Path(data["source"]).exists():  # said here without the path, which is not for others
        raise UserError(f"{Path(data['source']).name!r} is not on this machine, or has moved")
    listing = read_listing(Path(data["source"]), data["subset"], data["fold"])
    _check_named(names, {clip.filename for clip in listing.clips})
    return [read_sound(listing.audio / name, name) for name in names]


def _check_named(names: tuple[str, ...], known: Any) -> None:
    if strangers := [name for name in names if name not in known]:
        raise UserError(f"the data no longer names {strangers[0]!r}")


# ---------------------------------------------------------------------------------------------------------- programs


def _traced(network: nn.Module, probe: Probe) -> ExportedProgram:
    """The network's forward, whatever form it takes, with a batch of any size; branches that training alone needs are merged."""
    example_BCTF = torch.zeros(2, *probe.logmel_BCTF.shape[1:])  # two clips, because torch takes a 1 for a constant
    batch = torch.export.Dim("batch", min=1)
    with quiet(_TALKATIVE), torch.no_grad():
        return torch.export.export(merge_branches(network.eval()), (example_BCTF,), dynamic_shapes=({0: batch},))


def _tidy(model: Any) -> None:
    """Take out of an ONNX model what names this machine (source lines with their paths), and call its free axis 'batch'."""
    graph = model.graph
    model.doc_string = graph.doc_string = ""
    for thing in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        thing.doc_string = ""
        del thing.metadata_props[:]
    del graph.metadata_props[:]
    (symbol,) = {dim.dim_param for dim in graph.input[0].type.tensor_type.shape.dim if dim.dim_param}
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = dim.dim_param.replace(symbol, "batch")


def _onnx_call(content: bytes) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def call(logmel_BCTF: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.asarray(session.run(None, {"logmel": logmel_BCTF})[0], dtype=np.float32)

    return call


def _checked(kind: str, call: Call, network: nn.Module, probe: Probe) -> float:
    """The greatest difference of the logits, over the whole batch, three clips and one. Raises: `Refused` above `TOLERANCE`."""
    plain, differences = as_call(network), []
    for few_BCTF in (probe.logmel_BCTF, probe.logmel_BCTF[:3], probe.logmel_BCTF[:1]):
        difference = np.abs(call(few_BCTF) - plain(few_BCTF)).max()
        # A nan is no number that could be below the tolerance, and `max` might lose it.
        differences.append(float(difference) if np.isfinite(difference) else float("inf"))
    if max(differences) > TOLERANCE:
        raise Refused(
            f"the {kind} program's logits differ from torch's by up to {max(differences):.3g} on {probe.title}, more than "
            f"{TOLERANCE:g}: it is not written"
        )
    return max(differences)


def _medians_ms(calls: Mapping[str, Call], clip_BCTF: NDArray[np.float32]) -> dict[str, float]:
    for call in calls.values():
        for _ in range(3):
            call(clip_BCTF)
    taken_s: dict[str, list[float]] = {name: [] for name in calls}
    began = time.perf_counter()
    for number in range(_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() - began > _ROUNDS_S:
            break
        for name, call in calls.items():
            before = time.perf_counter()
            call(clip_BCTF)
            taken_s[name].append(time.perf_counter() - before)
    return {name: 1e3 * statistics.median(each_s) for name, each_s in taken_s.items()}


_TALKATIVE = "torch.onnx._internal.exporter._registration"
"""The exporter speaks of missing torchvision and of its own deprecations."""
