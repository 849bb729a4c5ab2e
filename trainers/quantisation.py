"""A network in int8: fake-quantised while it trains, converted at its end, kept as int8 tensors and their scales.

Observers, fake quantisation and conversion are torchao's (its pt2e flow, with the ranges of its x86 quantiser); here is what joins them to
this project's networks and trainings. Weights of 2-d convolutions and linear layers are int8, symmetric, a scale an output channel; what
these layers read is quantised a map at a time, in seven bits. Everything else stays float32: biases, attention, GRN, a batch norm that
follows no convolution (at the end of a distillation block; it becomes one factor and one summand a channel). The branches of a `RepConv` are merged
when fake quantisation begins, or before ranges are read after a training: what is rounded, counted and kept is the one convolution that is deployed.

Shape legend: B batch, C channels, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import copy
import dataclasses
import importlib.metadata
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from search_space.blocks import Cross, OrthonormalConv2d, RepConv
from search_space.errors import UserError
from trainers.inputs import Inputs
from trainers.runs import write_atomic

# Assumed: histograms of that many clips, un-augmented, tell the range of a map; more change the last bit of a scale.
CALIBRATION_CLIPS = 512
FROZEN_SHARE = 1 / 6
"""Of what is trained fake-quantised behind `quantise_from`, the last part, in which ranges and batch norm stand still.

Source: CP-Mobile (Schmid et al., DCASE 2023): the last 4 of about 24 epochs."""
_SCALE, _ZERO_POINT = "activations.scale", "activations.zero_point"
_aten = torch.ops.aten


def check_torchao() -> None:
    """Raises `UserError` where torchao is not installed."""
    if importlib.util.find_spec("torchao") is None:
        raise UserError("int8 needs the package torchao: pip install -e '.[int8]', or choose --precision float32")


def _import_torchao() -> None:
    check_torchao()
    with quiet(*_TALKATIVE):
        import torchao.quantization.pt2e.quantize_pt2e
        import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer  # noqa: F401


def hidden_batch_norm(*arguments: Any) -> Tensor:
    """`aten.batch_norm` under a name that torchao's passes do not look for.

    They would rewrite every convolution and batch norm into a form that folds the norm into the weights in each training step. It is not needed:
    with a scale an output channel, quantising the weights and then multiplying the channels is the same as the other way round.
    Measured: a network of two blocks is prepared in 14 s and converted in 82 with these passes, in 0.1 and 0.3 without.
    """
    normed: Tensor = _aten.batch_norm.default(*arguments)
    return normed


class _Graph(nn.Module):
    """What runs an exported graph."""

    graph: GraphModule

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        logits_BK: Tensor = self.graph(logmel_BCTF)
        return logits_BK

    def __deepcopy__(self, memo: dict[int, Any]) -> _Graph:
        copied = memo[id(self)] = type(self).__new__(type(self))
        with quiet(*_TALKATIVE):
            copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied


class FakeQuantised(_Graph):
    """A network in training whose weights and maps are rounded as int8 will round them, (B, 1, T, F) to (B, K) logits.

    `size` is the T x F that it trains at. In evaluation, and once frozen, no range and no statistic moves. Its float weights stand under the
    network's own names in `graph`, but that a cross is one channel-wise 3x3 kernel whose corners stay zero, and a `RepConv` the one convolution that
    its branches were in eval mode at the start: from there on there are no branches, so those of a network made at random never train.
    """

    float32_only = True
    """Read by `trainers.loop.bfloat16_pays`: fake quantisation rounds float32 numbers."""

    def __init__(self, model: nn.Module, size: tuple[int, int]) -> None:
        super().__init__()
        _import_torchao()
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

        self.frozen = False
        form = _one_kernel(model)
        with quiet(*_TALKATIVE):
            graph = _exported(form.train(), size)
            for node in list(graph.graph.nodes):
                if node.target is _aten.batch_norm.default:
                    node.target = hidden_batch_norm
                elif node.target is _aten.add_.Tensor and str(node.args[0].target).endswith("num_batches_tracked"):
                    graph.graph.erase_node(node)  # it would count in evaluation as well, and nothing reads it
            graph.recompile()
            self.graph = prepare_pt2e(graph, _quantiser(fake=True))
        parameters = dict(self.graph.named_parameters())
        for name, layer in form.named_modules():
            if getattr(layer, "is_cross", False):
                parameters[f"{name}.weight"].register_hook(_without_corners)
        self.orthonormal = nn.ModuleList()  # for the penalty, which looks for layers
        for name, layer in form.named_modules():
            if isinstance(layer, OrthonormalConv2d):
                layer.weight = parameters[f"{name}.weight"]
                self.orthonormal.append(layer)
        self.train()

    def train(self, mode: bool = True) -> FakeQuantised:
        """As a module's own, for an exported graph, whose modes are arguments of its operations."""
        from torchao.quantization.pt2e import disable_observer, enable_observer

        self.training = mode
        moving = mode and not self.frozen
        for node in self.graph.graph.nodes:
            if node.target is hidden_batch_norm:
                node.update_arg(5, moving)
            elif node.target in (_aten.dropout.default, _aten.dropout_.default):
                node.update_arg(2, mode)
        self.graph.recompile()
        for name in _observers(self.graph):
            self.graph.get_submodule(name).apply(enable_observer if moving else disable_observer)
        return self

    def freeze(self) -> None:
        """From here on the ranges and batch norm's statistics stand still; the weights go on."""
        self.frozen = True
        self.train(self.training)

    def give_back(self, model: nn.Module) -> nn.Module:
        """The ordinary model, of the same network, with the weights and statistics as they are now; of two kernels that make a cross the second has
        none of their common centre, of branches that became one convolution the 3x3 is it and the others are zero."""
        ours, state = self.graph.state_dict(), {}
        branches = {name: layer for name, layer in model.named_modules() if isinstance(layer, RepConv)}
        for name, layer in branches.items():
            layer.take(ours[f"{name}.weight"], ours[f"{name}.bias"])
        for name, tensor in model.state_dict().items():
            parent, _, last = name.rpartition(".")
            if name.startswith(tuple(f"{branched}." for branched in branches)):
                state[name] = tensor
            elif last == "along_time":
                state[name] = ours[f"{parent}.weight"][:, :, :, 1:2]
            elif last == "along_mel":
                state[name] = ours[f"{parent}.weight"][:, :, 1:2, :] * torch.tensor(
                    [1.0, 0.0, 1.0], device=tensor.device
                )
            else:
                state[name] = ours[name]
        model.load_state_dict(state)
        return model


class Size(NamedTuple):
    """Bytes of an int8 network's params: one a weight of a convolution or linear layer, four a number that stays float32 (biases, attention, what is
    left of batch norm). Scales and zero points, `scales`, are not among them; nor are the zeros in a cross's corners."""

    params: int
    scales: int


class Int8(_Graph):
    """A converted network, (B, 1, T, F) normalised log-mels to (B, K) logits: what each layer reads is rounded to seven bits, its weights are int8."""

    def __init__(self, graph: GraphModule, n_corners: int) -> None:
        super().__init__()
        self.graph, self.n_corners = graph, n_corners
        self.training = False

    def train(self, mode: bool = True) -> Int8:
        """It only answers."""
        return self

    def tensors(self) -> dict[str, Tensor]:
        """All that it computes with: int8 weights, float32 numbers, scales and zero points."""
        used = dict.fromkeys(str(node.target) for node in self.graph.graph.nodes if node.op == "get_attr")
        points = [node.args[1:3] for node in self._points()]
        scales, zero_points = (list(column) for column in zip(*points, strict=True))
        return {
            **{name: _tensor(self.graph, name).detach().cpu().contiguous() for name in used},
            _SCALE: torch.tensor(scales, dtype=torch.float64),
            _ZERO_POINT: torch.tensor(zero_points, dtype=torch.int64),
        }

    def take(self, tensors: dict[str, Tensor]) -> None:
        """Compute with these. Raises `ValueError` where they are of another graph."""
        own = self.tensors()
        shapes = ({name: (one.shape, one.dtype) for name, one in of.items()} for of in (own, tensors))
        mine, theirs = shapes
        if mine != theirs:
            differ = sorted(name for name in {*mine, *theirs} if mine.get(name) != theirs.get(name))
            raise ValueError(f"its tensors are not those of the network: {', '.join(differ[:3])}")
        with torch.no_grad():
            for name in set(own) - {_SCALE, _ZERO_POINT}:
                _tensor(self.graph, name).copy_(tensors[name])
        values = zip(tensors[_SCALE].tolist(), tensors[_ZERO_POINT].tolist(), strict=True)
        for node, (scale, zero_point) in zip(self._points(), values, strict=True):
            node.update_arg(1, scale)
            node.update_arg(2, zero_point)
        self.graph.recompile()

    def size(self) -> Size:
        """Its bytes."""
        params = scales = 0
        for name, tensor in self.tensors().items():
            if name in (_SCALE, _ZERO_POINT) or name.startswith(("_scale_", "_zero_point_")):
                scales += 4 * tensor.numel() if "scale" in name else tensor.numel()  # a zero point is an int8 as well
            else:
                params += tensor.numel() * tensor.element_size()
        return Size(params - self.n_corners, scales)

    def _points(self) -> list[Node]:
        """The operations that round a map or bring it back, in order."""
        ops = (
            torch.ops.quantized_decomposed.quantize_per_tensor.default,
            torch.ops.quantized_decomposed.dequantize_per_tensor.default,
        )
        return [node for node in self.graph.graph.nodes if node.target in ops]


def post_training(model: nn.Module, inputs: Inputs) -> Int8:
    """The model in int8, the ranges of its maps those of `CALIBRATION_CLIPS` clips of train, spread over it and as they are. The model is left alone."""
    prepared = _observed(model, inputs.size)
    data = inputs.splits["train"]
    rows = torch.linspace(0, len(data) - 1, min(CALIBRATION_CLIPS, len(data))).long()
    with torch.inference_mode():
        for index_B in rows.split(32):
            prepared(inputs.normalise(data.batch(index_B, torch.device("cpu"))).unsqueeze(1))
    return _converted(prepared, model)


def converted(fake: FakeQuantised, model: nn.Module, size: tuple[int, int]) -> Int8:
    """What a fake-quantised training made, in int8, with the ranges that it trained with; `model` has its weights (`give_back`)."""
    prepared, trained = _observed(model, size), copy.deepcopy(fake).cpu().eval().graph
    with torch.inference_mode():
        prepared(torch.zeros(2, 1, *size))  # the weights' ranges are those of the weights, as they are now
    ours, theirs = _observers(prepared), _observers(trained)
    assert len(ours) == len(theirs)  # the same layers read the same maps in both forms
    for name, other in zip(ours, theirs, strict=True):
        setattr(prepared, name, trained.get_submodule(other))
    return _converted(prepared, model)


def blank(model: nn.Module, size: tuple[int, int]) -> Int8:
    """An int8 network of this shape that is to `take` its numbers."""
    prepared = _observed(model, size)
    with torch.inference_mode():
        prepared(torch.zeros(2, 1, *size))
    return _converted(prepared, model)


def save_int8(path: Path, network: Int8, inputs: tuple[Tensor, Tensor], notes: dict[str, Any]) -> None:
    """Keep an int8 network beside its input's normalisation (mean and deviation, (F,) each), as a safetensors file without any code in it."""
    tensors = network.tensors() | {"normalise.mean_F": inputs[0], "normalise.std_F": inputs[1]}
    versions = {name: importlib.metadata.version(name) for name in ("torch", "torchao")}
    told = {key: value if isinstance(value, str) else json.dumps(value) for key, value in {**notes, **versions}.items()}
    write_atomic(path, lambda file: file.write(save(tensors, metadata=told)))


def load_int8(path: Path, model: nn.Module, size: tuple[int, int]) -> tuple[Int8, Tensor, Tensor]:
    """The int8 network that lies there, of `model`'s shape, and its input's mean and deviation. Raises `UserError` for another or a torn one."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors, told = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is torn or no safetensors file ({error}); train this network again") from error
    mean_F, std_F = tensors.pop("normalise.mean_F"), tensors.pop("normalise.std_F")
    network = blank(model, size)
    try:
        network.take(tensors)
    except ValueError as error:
        versions = ", ".join(f"{name} {(told or {}).get(name)}" for name in ("torch", "torchao"))
        raise UserError(
            f"{path} can not be read here: {error}. It was written with {versions}; install these, or train this network again"
        ) from error
    return network, mean_F, std_F


# ------------------------------------------------------------------------------------------------------------------ graphs


def _quantiser(fake: bool) -> Any:
    """What marks every 2-d convolution and linear layer for torchao: its input and its weight, with the observers of torchao's x86 quantiser.

    Not that quantiser itself: it goes by patterns (a convolution, its sum with another map), which are not the same with batch norm in between and
    without, so that a network in training and its inference would be rounded at different places.

    Seven bits of a map, because eight can overflow the 16-bit sums of CPUs without VNNI, on which onnxruntime would then answer otherwise.
    Source: `reduce_range` of torchao's x86 quantiser, onnxruntime's guide to quantisation, and fbgemm's default, with which CP-Mobile was trained.
    """
    import torchao.quantization.pt2e.quantizer.x86_inductor_quantizer as x86
    from torchao.quantization.pt2e import (
        FakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
        PerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, Quantizer

    config = x86.get_default_x86_inductor_quantization_config(reduce_range=True)
    maps = config.input_activation
    # Weights without the smallest scale that torchao keeps to, which folded norms fall below, and without -128, so that a channel whose norm
    # has a negative scale rounds as before.
    exact: dict[str, Any] = {"eps": 1e-12}
    of_weights = PerChannelMinMaxObserver.with_args(**exact)
    if fake:  # not the default's fused operation, which rounds its scales otherwise than the observers that convert
        maps = dataclasses.replace(
            maps, observer_or_fake_quant_ctr=FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, eps=2**-12)
        )
        newest = MovingAveragePerChannelMinMaxObserver  # a mean over one step: the weights as they are
        of_weights = FakeQuantize.with_args(observer=newest, averaging_constant=1.0, **exact)
    weights = dataclasses.replace(config.weight, quant_min=-127, observer_or_fake_quant_ctr=of_weights)

    class Layers(Quantizer):
        def annotate(self, model: GraphModule) -> GraphModule:
            for node in model.graph.nodes:
                if node.target in (_aten.conv2d.default, _aten.conv2d.padding, _aten.linear.default):
                    read, weight = node.args[:2]
                    node.meta["quantization_annotation"] = QuantizationAnnotation(
                        input_qspec_map={read: maps, weight: weights}, _annotated=True
                    )
            return model

        def validate(self, model: GraphModule) -> None:
            pass

    return Layers()


def _one_kernel(model: nn.Module) -> nn.Module:
    """A copy of the model in which every cross and every `RepConv` is one channel-wise convolution, so that its weights are a layer's."""
    copied = copy.deepcopy(model)
    for parent in list(copied.modules()):
        parent.plain = True  # type: ignore[assignment]  # read by `search_space.blocks.runs_fused`
        for name, child in parent.named_children():
            if isinstance(child, Cross):
                plus, d = child.plus().detach().clone(), child.dilation
                conv = nn.Conv2d(len(plus), len(plus), 3, padding=d, dilation=d, groups=len(plus), bias=False)
                conv.weight, conv.is_cross = nn.Parameter(plus), True  # type: ignore[assignment]
                setattr(parent, name, conv)
            elif isinstance(child, RepConv):
                setattr(parent, name, child.convolution())
    return copied


def _without_corners(gradient: Tensor) -> Tensor:
    kept = torch.tensor([[0.0, 1.0, 0.0], [1.0, 1.0, 1.0], [0.0, 1.0, 0.0]], device=gradient.device)
    return gradient * kept


def _exported(form: nn.Module, size: tuple[int, int]) -> GraphModule:
    device = next(form.parameters()).device
    example_BCTF = torch.zeros(2, 1, *size, device=device)
    batch = torch.export.Dim("batch", min=1)
    with torch.random.fork_rng(devices=[]):
        return torch.export.export(form, (example_BCTF,), dynamic_shapes=({0: batch},)).module()


def _observed(model: nn.Module, size: tuple[int, int]) -> GraphModule:
    """The model's inference on the CPU as a graph with an observer on every map and weight that becomes int8, and no batch norm left."""
    _import_torchao()
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    form = _one_kernel(model).cpu().eval()
    with quiet(*_TALKATIVE):
        prepared: GraphModule = prepare_pt2e(_exported(form, size), _quantiser(fake=False))
    for number, node in enumerate(list(prepared.graph.nodes)):
        if node.target is _aten.batch_norm.default:
            weight, bias, mean, var = (_tensor(prepared, str(argument.target)).detach() for argument in node.args[1:5])
            factor_C = weight / (var + node.args[7]).sqrt()
            names = f"norm_{number}_factor", f"norm_{number}_shift"
            shape = (-1, *[1] * (node.meta["val"].ndim - 2))
            for name, value in zip(names, (factor_C, bias - mean * factor_C), strict=True):
                prepared.register_buffer(name, value.view(shape))
            with prepared.graph.inserting_before(node):
                scaled = prepared.graph.call_function(
                    _aten.mul.Tensor, (node.args[0], prepared.graph.get_attr(names[0]))
                )
                moved = prepared.graph.call_function(_aten.add.Tensor, (scaled, prepared.graph.get_attr(names[1])))
            node.replace_all_uses_with(moved)
            prepared.graph.erase_node(node)
    prepared.graph.eliminate_dead_code()
    prepared.recompile()
    return prepared


def _observers(graph: GraphModule) -> list[str]:
    """The observers of maps, in order of execution."""
    nodes = (node for node in graph.graph.nodes if node.op == "call_module" and node.args[0].op != "get_attr")
    names = dict.fromkeys(str(node.target) for node in nodes)  # a graph checks its input's shape by a module as well
    return [name for name in names if hasattr(graph.get_submodule(name), "calculate_qparams")]


def _converted(prepared: GraphModule, model: nn.Module) -> Int8:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    n_corners = sum(3 * len(layer.along_time) for layer in model.modules() if isinstance(layer, Cross))
    with quiet(*_TALKATIVE), torch.no_grad():
        return Int8(convert_pt2e(prepared), n_corners)


def _tensor(graph: GraphModule, name: str) -> Tensor:
    parent, _, last = name.rpartition(".")
    found: Tensor = getattr(graph.get_submodule(parent), last)
    return found


_TALKATIVE = ("torchao", "torch.utils._pytree")
"""They speak of extensions for GPUs that this flow does not use, and of their own deprecations."""


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Without a library's remarks about itself: warnings, and what the loggers of these names say below an error."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
