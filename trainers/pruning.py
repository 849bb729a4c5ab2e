"""Structured pruning: a trained network becomes a narrower one of its family, which has its own notation, params and MACs.

Whole channels go; what is left keeps its weights, its batch norm's statistics and its optimiser's moments. Nothing is masked.

Shape legend: C channels of one group, a set of channels that must stay as many as one another.
"""

from __future__ import annotations

import bisect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from search_space.architecture import Architecture
from search_space.blocks import DistillationBlock, PlainBlock
from search_space.complexity import count_network, part_channels
from search_space.errors import UserError
from search_space.families import is_notation
from search_space.mobile import Mobile
from search_space.mobile_modules import MobileNetwork
from search_space.model import Dssdn, build_model
from search_space.presets import DESCRIBED, NETWORKS, resolve

Selection = dict[str, tuple[Tensor | None, ...]]
"""For a tensor of the wide network's state, by its name: the indices that are kept of each of its dimensions, None for all."""

# Assumed: no layer becomes a bottleneck that the ranking of one moment has made, nor too narrow to hold anything.
FLOOR_SHARE, FLOOR = 0.25, 4


class Family(ABC):
    """What pruning must know of a family of networks: its groups of channels, what they are worth, and how a narrower member is made of a wide one.

    The specs are whatever the family's networks are described by; their `str()` is the notation.
    """

    @abstractmethod
    def spec(self, network: object) -> Any | None:
        """The network's spec, None where it is none of this family."""

    @abstractmethod
    def why_not(self, spec: Any) -> str:
        """Why this member can not be pruned, a clause; empty where it can."""

    @abstractmethod
    def widths(self, spec: Any) -> tuple[int, ...]:
        """Channels of each group."""

    @abstractmethod
    def narrower(self, spec: Any, widths: Sequence[int]) -> Any:
        """The member with these widths, the same in everything else."""

    @abstractmethod
    def importance(self, model: nn.Module) -> list[Tensor]:
        """What each channel of each group is worth, (C,) a group; only the order within a group matters, and what is small beside its mates."""

    @abstractmethod
    def kept(self, spec: Any, importance: Sequence[Tensor], widths: Sequence[int]) -> list[Tensor]:
        """The channels of each group that stay, ascending: as many as `widths` says, the worthiest that fit together."""

    @abstractmethod
    def selection(self, model: nn.Module, spec: Any, narrow: nn.Module, kept: Sequence[Tensor]) -> Selection:
        """What of the wide model's tensors makes those of the narrow one, where these channels of each group stay."""


FAMILIES: list[Family] = []
"""Every family that can be pruned; one more is one more object in here."""


def family_of(network: object) -> tuple[Family, Any]:
    """The network's family and its spec in it. Raises `UserError` where it can not be pruned, before anything is trained."""
    for family in FAMILIES:
        if (spec := family.spec(network)) is not None:
            if reason := family.why_not(spec):
                raise UserError(f"{network} can not be pruned: {reason}; leave --prune out, or choose another network")
            return family, spec
    raise UserError(
        f"{network} can not be pruned: nothing says which of its channels belong together; leave --prune out, or choose a network of "
        f"another family, such as {next(iter(NETWORKS))}"
    )


def check_prunable(network: object, prune: float, input: tuple[int, int], n_classes: int) -> None:
    """Raises `UserError` unless the network can lose this share of its params with every layer at its floor or above."""
    family, spec = family_of(network)
    least = family.narrower(spec, [floor(width) for width in family.widths(spec)])
    wide, narrow = (count_network(one, input, n_classes).params for one in (spec, least))
    if narrow > (1 - prune) * wide:
        raise UserError(
            f"{network} has {wide:,} params, and {narrow:,} with every layer at a quarter of its channels, the least that pruning leaves: it "
            f"can not lose {prune:.0%}; choose at most --prune {int(100 * (1 - narrow / wide)) / 100:g}"
        )


def floor(width: int) -> int:
    """The fewest channels that pruning leaves of so many."""
    return min(width, max(FLOOR, round(FLOOR_SHARE * width)))


def shrunk(
    network: object, model: nn.Module, params: int, input: tuple[int, int], widest: Sequence[int] | None = None
) -> tuple[Any, nn.Module, Selection]:
    """The narrower member of the network's family that has about `params` params, its model with the wide one's weights, and what it
    took of them.

    Channels of all groups stand in one ranking, each by its importance over the root mean square of its group's; the least go first,
    down to the floor of `widest`, the widths that the training began with. Of the two sizes on either side of `params` the nearer one.
    `input` is what the count takes; params do not depend on it.
    Source: ranking across layers by layer-wise normalised criteria: Molchanov et al., 2017 (arXiv 1611.06440), sec. 2.2.
    """
    family, spec = family_of(network)
    widths = family.widths(spec)
    importance = [worth_C.detach().float().cpu() for worth_C in family.importance(model)]
    order = _ranking(importance, [floor(width) for width in (widest or widths)])

    def after(removed: int) -> list[int]:
        left = list(widths)
        for group in order[:removed]:
            left[group] -= 1
        return left

    n_classes = _n_classes(model)

    def size(removed: int) -> int:
        return count_network(family.narrower(spec, after(removed)), input, n_classes).params

    number = bisect.bisect_left(range(len(order)), True, key=lambda removed: size(removed) <= params)
    if number and abs(size(number - 1) - params) < abs(size(number) - params):
        number -= 1
    left = after(number)
    narrow_spec = family.narrower(spec, left)
    narrow = like(model, narrow_spec)
    selection = family.selection(model, spec, narrow, family.kept(spec, importance, left))
    transfer(model, narrow, selection)
    return narrow_spec, narrow, selection


def like(model: nn.Module, spec: Any) -> nn.Module:
    """A new model of another spec for as many classes, on the same device; torch's generator is left as it was."""
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        return build_model(spec, _n_classes(model)).to(device)


def transfer(model: nn.Module, narrow: nn.Module, selection: Selection) -> None:
    """Give the narrow model the wide one's tensors, parameters and statistics, by the indices of the selection.

    Raises `ValueError` where a tensor does not come out in its shape.
    """
    wide, taken = model.state_dict(), {}
    for name, tensor in narrow.state_dict().items():
        taken[name] = selected(wide[name], selection.get(name, ()))
        if taken[name].shape != tensor.shape:
            raise ValueError(
                f"{name}: {tuple(wide[name].shape)} became {tuple(taken[name].shape)}, not {tuple(tensor.shape)}"
            )
    narrow.load_state_dict(taken)
    narrow.train(model.training)


def transfer_moments(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    narrow: nn.Module,
    fresh: torch.optim.Optimizer,
    selection: Selection,
) -> None:
    """Give the narrow model's optimiser the wide one's running moments of the channels that stay, and its count of steps."""
    wide = dict(model.named_parameters())
    for name, parameter in narrow.named_parameters():
        for key, value in optimizer.state.get(wide[name], {}).items():
            moment = isinstance(value, Tensor) and value.shape == wide[name].shape
            fresh.state[parameter][key] = selected(value, selection.get(name, ())) if moment else value


def selected(tensor: Tensor, indices: Sequence[Tensor | None]) -> Tensor:
    """A copy of what is kept of a tensor."""
    for dimension, index in enumerate(indices):
        if index is not None:
            tensor = tensor.index_select(dimension, index.to(tensor.device))
    return tensor.clone()


def _ranking(importance: Sequence[Tensor], floors: Sequence[int]) -> list[int]:
    """The group that loses a channel at every removal, the least important channel first, until all are at their floors."""
    scored = [
        (float(worth), group)
        for group, worth_C in enumerate(importance)
        for worth in worth_C / worth_C.square().mean().sqrt().clamp(min=1e-12)
    ]
    spare = [max(0, len(worth_C) - least) for worth_C, least in zip(importance, floors, strict=True)]
    order = []
    for _, group in sorted(scored):
        if spare[group]:
            spare[group] -= 1
            order.append(group)
    return order


def _described(network: object) -> object:
    """The description of a network that is named or written; itself where it is none."""
    known = isinstance(network, str) and (network in DESCRIBED or is_notation(network))
    return resolve(network) if known and isinstance(network, str) else network


def _n_classes(model: nn.Module) -> int:
    last = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)][-1]
    return last.out_features if isinstance(last, nn.Linear) else last.out_channels


def best(worth_C: Tensor, count: int, cuts: tuple[int, int] | None = None) -> Tensor:
    """The `count` worthiest channels, ascending. With `cuts`, (channels before the cut now, and then), each side gives its own share."""
    if cuts is None:
        return worth_C.argsort(descending=True, stable=True)[:count].sort().values
    before, then = cuts
    return torch.cat([best(worth_C[:before], then), before + best(worth_C[before:], count - then)])


# ---------------------------------------------------------------------------------------------------------------- DSSDN


class _DssdnFamily(Family):
    """Groups: the stem's channels and each block's output. What lies within a block follows the width of its input: the outputs of its
    first two operators are as many, those of its distilling layers and its third operator half as many."""

    def spec(self, network: object) -> Architecture | None:
        found = _described(network)
        return found if isinstance(found, Architecture) else None

    def why_not(self, spec: Architecture) -> str:
        grouped = any(dict(block.options).get("groups", 1) != 1 for block in spec.blocks)
        return "its 1x1 convolutions have groups, which tie channels to one another" if grouped else ""

    def widths(self, spec: Architecture) -> tuple[int, ...]:
        return spec.stem, *(block.out_channels for block in spec.blocks)

    def narrower(self, spec: Architecture, widths: Sequence[int]) -> Architecture:
        stem, *outputs = widths
        blocks = tuple(replace(block, out_channels=c) for block, c in zip(spec.blocks, outputs, strict=True))
        return replace(spec, stem=stem, blocks=blocks)

    def importance(self, model: nn.Module) -> list[Tensor]:
        """The norms of the filters that make a channel, with their batch norm folded in, summed.

        Source: filter norms: Li et al., 2017 (arXiv 1608.08710; they take L1); batch norm's scale: Liu et al., 2017 (arXiv 1708.06519).
        """
        dssdn = _dssdn(model)
        stem = dssdn.stem
        found = [_norms(stem.get_submodule("conv")) * _scale(stem.get_submodule("norm"))]
        for block in dssdn.blocks:
            if isinstance(block, PlainBlock):
                found.append(_norms(block.operator, block.norm.num_features) * _scale(block.norm))
                continue
            assert isinstance(block, DistillationBlock)
            worth_C = _norms(block.fuse)
            if block.light is not None:
                light_C = _norms(block.light)
                worth_C = torch.cat([worth_C, light_C]) if block.merge == "concat" else worth_C + light_C
            found.append(worth_C * _scale(block.norm))
        return found

    def kept(self, spec: Architecture, importance: Sequence[Tensor], widths: Sequence[int]) -> list[Tensor]:
        narrow = self.narrower(spec, widths)
        found = []
        for group, (worth_C, count) in enumerate(zip(importance, widths, strict=True)):
            cuts = None
            if group and spec.merge == "concat" and spec.blocks[group - 1].cut:
                cuts = (
                    part_channels(spec.blocks[group - 1], spec.merge)[0],
                    part_channels(narrow.blocks[group - 1], narrow.merge)[0],
                )
            elif group < len(spec.blocks):
                cuts = _partial_cut(spec.blocks[group].module, len(worth_C), count)
            found.append(best(worth_C, count, cuts))
        return found

    def selection(self, model: nn.Module, spec: Architecture, narrow: nn.Module, kept: Sequence[Tensor]) -> Selection:
        wide, small = _dssdn(model), _dssdn(narrow)
        chosen: Selection = {"stem.conv.weight": (kept[0],), **_norm("stem.norm", kept[0])}
        for number, (block, thin) in enumerate(zip(wide.blocks, small.blocks, strict=True)):
            name, ins, outs = f"blocks.{number}", kept[number], kept[number + 1]
            chosen |= _norm(f"{name}.norm", outs)
            if isinstance(block, PlainBlock):
                assert isinstance(thin, PlainBlock)
                chosen |= _operator(f"{name}.operator", block.operator, thin.operator, ins, outs)
            else:
                assert isinstance(block, DistillationBlock)
                assert isinstance(thin, DistillationBlock)
                chosen |= _block(name, block, thin, ins, outs)
        blocks = zip(spec.blocks, kept[1:], strict=True)
        starts, start, taps = [], 0, []
        for block_number, (spec_block, outs) in enumerate(blocks, start=1):
            if block_number in spec.tap_numbers:
                starts.append(start)
                taps.append(start + outs)
                start += spec_block.out_channels
        return chosen | {"head.hidden.weight": (None, torch.cat(taps))}


class _MobileFamily(Family):
    """Groups: the first stem convolution's channels; the second's, which are the first stage's, for its blocks add them; each later
    stage's; then each block's expanded channels."""

    def spec(self, network: object) -> Mobile | None:
        found = _described(network)
        return found if isinstance(found, Mobile) else None

    def why_not(self, spec: Mobile) -> str:
        apart = spec.stem[1] != spec.widths[0]
        return (
            "its first stage has other channels than its stem, and would begin to add its input if they became as many"
            if apart
            else ""
        )

    def widths(self, spec: Mobile) -> tuple[int, ...]:
        return spec.stem[0], *spec.widths, *spec.expanded

    def narrower(self, spec: Mobile, widths: Sequence[int]) -> Mobile:
        first, *rest = widths
        stages, expanded = rest[: len(spec.widths)], rest[len(spec.widths) :]
        return replace(spec, stem=(first, stages[0]), widths=tuple(stages), expanded=tuple(expanded))

    def importance(self, model: nn.Module) -> list[Tensor]:
        """As for DSSDN: the norms of the filters that make a channel, batch norm folded in; summed over all that are added into it."""
        network = _mobile(model)
        first, second = network.stem
        of_stages = [_filters(second), *(torch.zeros(width) for width in network.architecture.widths[1:])]
        expanded = []
        for stage, blocks in enumerate(network.stages):
            for block in blocks:  # type: ignore[attr-defined]
                of_stages[stage] = of_stages[stage].to(_filters(block.project)) + _filters(block.project)
                expanded.append(_filters(block.expand))
        return [_filters(first), *of_stages, *expanded]

    def kept(self, spec: Mobile, importance: Sequence[Tensor], widths: Sequence[int]) -> list[Tensor]:
        return [best(worth_C, count) for worth_C, count in zip(importance, widths, strict=True)]

    def selection(self, model: nn.Module, spec: Mobile, narrow: nn.Module, kept: Sequence[Tensor]) -> Selection:
        network, thin = _mobile(model), narrow.state_dict()
        first, *rest = kept
        of_stages, expanded = rest[: len(spec.widths)], iter(rest[len(spec.widths) :])
        chosen: Selection = {"stem.0.conv.weight": (first,), "stem.1.conv.weight": (of_stages[0], first)}
        chosen |= _norm("stem.0.norm", first) | _norm("stem.1.norm", of_stages[0])
        ins = of_stages[0]
        for stage, outs in enumerate(of_stages):
            for place in range(spec.depths[stage]):
                name, inner = f"stages.{stage}.{place}", next(expanded)
                chosen |= {f"{name}.expand.conv.weight": (inner, ins), f"{name}.project.conv.weight": (outs, inner)}
                chosen |= _norm(f"{name}.expand.norm", inner) | _norm(f"{name}.project.norm", outs)
                depthwise = network.get_submodule(f"{name}.depthwise").state_dict()
                # Kernels and batch norms hold an entry a channel; the weights of Rep-Mobile's branches (alpha) do not.
                chosen |= {
                    f"{name}.depthwise.{key}": (inner,)
                    for key, tensor in depthwise.items()
                    if tensor.ndim and not key.endswith("alpha")
                }
                for axis in ("time", "mel"):
                    if f"{name}.attention.{axis}.weight" in thin:
                        chosen[f"{name}.attention.{axis}.weight"] = (outs,)
                if (key := f"{name}.attention.channel.weight") in thin:
                    chosen[key] = (None, None, _middle(network.get_parameter(key), thin[key]))
                ins = outs
        return chosen | {"head.conv.weight": (None, ins)}


FAMILIES.extend((_DssdnFamily(), _MobileFamily()))


def _mobile(model: nn.Module) -> MobileNetwork:
    assert isinstance(model, MobileNetwork)
    return model


def _filters(layers: nn.Module) -> Tensor:
    """What each channel of a convolution with batch norm is worth, (C,)."""
    return _norms(layers.get_submodule("conv")) * _scale(layers.get_submodule("norm"))


def _middle(wide: Tensor, narrow: Tensor) -> Tensor:
    """Of an attention's kernel, which a narrower map may ask to be narrower, the middle."""
    margin = (wide.shape[-1] - narrow.shape[-1]) // 2
    return torch.arange(margin, wide.shape[-1] - margin)


def _dssdn(model: nn.Module) -> Dssdn:
    assert isinstance(model, Dssdn)
    return model


def _block(name: str, block: DistillationBlock, thin: DistillationBlock, ins: Tensor, outs: Tensor) -> Selection:
    """What is kept of a distillation block, whose input keeps the channels `ins` and its output `outs`."""
    chosen: Selection = {}
    half = thin.fuse.in_channels // (3 if thin.distil_input is not None else 1)
    inner = ins
    for stage, count in (("first", len(ins)), ("second", len(ins)), ("third", half)):
        layers = block.get_submodule(stage)
        operator, norm = layers.get_submodule("operator"), layers.get_submodule("norm")
        assert isinstance(norm, nn.BatchNorm2d)
        worth_C = _norms(operator, norm.num_features) * _scale(norm)
        cuts = _partial_cut(block.block.module, len(worth_C), count) if stage != "third" else None
        stays = best(worth_C.detach().float().cpu(), count, cuts)
        chosen |= _operator(f"{name}.{stage}.operator", operator, thin.get_submodule(f"{stage}.operator"), inner, stays)
        chosen |= _norm(f"{name}.{stage}.norm", stays)
        if stage == "first":
            first = stays
        inner = stays
    sources = [inner]
    if block.distil_input is not None and block.distil_first is not None:
        before = block.distil_input.out_channels
        distilled = []
        for layer_name, layer, of in (
            ("distil_input", block.distil_input, ins),
            ("distil_first", block.distil_first, first),
        ):
            stays = best(_norms(layer).detach().float().cpu(), half)
            chosen |= {f"{name}.{layer_name}.weight": (stays, of), f"{name}.{layer_name}.bias": (stays,)}
            distilled.append(stays)
        sources = [distilled[0], before + distilled[1], 2 * before + inner]
    heavy = light = outs
    if block.merge == "concat" and block.light is not None:
        n_heavy = block.fuse.out_channels
        heavy, light = outs[outs < n_heavy], outs[outs >= n_heavy] - n_heavy
    chosen |= {f"{name}.fuse.weight": (heavy, torch.cat(sources)), f"{name}.fuse.bias": (heavy,)}
    if block.light is not None:
        chosen |= {f"{name}.light.weight": (light, ins), f"{name}.light.bias": (light,)}
    kernels = [dict(one.attention.named_parameters()).get("conv.weight") for one in (block, thin)]
    if kernels[0] is not None and kernels[1] is not None:
        chosen[f"{name}.attention.conv.weight"] = (None, None, _middle(kernels[0], kernels[1]))
    return chosen


def _operator(name: str, operator: nn.Module, thin: nn.Module, ins: Tensor, outs: Tensor) -> Selection:
    """What is kept of an operator: of a tensor's first dimension `outs` and of its second `ins`, where they became narrower.

    The layers of a partial convolution work on the first channels of the input alone.
    """
    chosen: Selection = {}
    small = thin.state_dict()
    for key, tensor in operator.state_dict().items():
        after = small[key].shape
        of_out, of_in = outs, ins
        if key.startswith("partial."):
            of_out = of_in = ins[: after[0]] if len(after) else ins
        indices: list[Tensor | None] = []
        for dimension, length in enumerate(tensor.shape):
            narrower = length != after[dimension]
            indices.append((of_out if dimension == 0 else of_in) if narrower else None)
        chosen[f"{name}.{key}"] = tuple(indices)
    return chosen


def _norm(name: str, kept: Tensor) -> Selection:
    return {f"{name}.{key}": (kept,) for key in ("weight", "bias", "running_mean", "running_var")}


def _partial_cut(operator: Any, width: int, count: int) -> tuple[int, int] | None:
    """Of a partial convolution that reads so many channels, how many it works on now and when `count` are left; None of another operator."""
    channels = getattr(operator, "_channels", None)
    return None if channels is None else (channels(width), channels(count))


def _norms(layer: nn.Module, channels: int | None = None) -> Tensor:
    """The norms of each output channel's filters, (C,), summed over the layer's tensors; inner layers of other channels left out."""
    weights = [
        parameter
        for name, parameter in layer.named_parameters()
        if parameter.ndim > 1 and not name.startswith(("partial.", "squeeze.")) and channels in (None, len(parameter))
    ]
    return torch.stack([weight.detach().flatten(1).norm(dim=1) for weight in weights]).sum(0)


def _scale(norm: nn.Module) -> Tensor:
    """|scale| over deviation, (C,): what batch norm multiplies a filter by once it is folded into it."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None
    return norm.weight.detach().abs() / (norm.running_var + norm.eps).sqrt()


def steps(prune: float, number: int, begin: float, end: float) -> Iterator[tuple[float, float]]:
    """(share of the clips at which it lies, share of the first params that is left) of each step of a schedule.

    Each removes the same share of what is left, and lies in the middle of its part of the span: one step and many lie, on average, at the
    same clip, and end at the same size.
    """
    for step in range(1, number + 1):
        yield begin + (end - begin) * (step - 0.5) / number, (1 - prune) ** (step / number)
