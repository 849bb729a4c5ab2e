"""The network as its equations read: what the fast forms are timed and tested against.

Contiguous NCHW maps, two channel-wise convolutions for s3x1 + s1x3, slices for the cut, a concatenation for each concatenation of
the paper, and a layer for each layer. It shares no module with `search_space.blocks` and takes a built network's weights by name.

Shape legend: B batch, C channels, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_space.architecture import Architecture, Block
from search_space.complexity import cut
from search_space.model import Dssdn


def reference(model: Dssdn) -> Reference:
    """The network of a built model with a copy of its weights, in its mode and type of number."""
    return Reference(model.architecture, {name: tensor.detach() for name, tensor in model.state_dict().items()}).train(
        model.training
    )


class Reference(nn.Module):
    """A distillation or plain network, (B, 1, T, F) log-mel to (B, K) logits, read off the names of its weights."""

    def __init__(self, architecture: Architecture, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.architecture = architecture
        self.weights = nn.ParameterDict()
        for name, tensor in weights.items():
            plain = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
            key = name.replace(".", "/")
            if "running" in name or "num_batches" in name:
                self.register_buffer(key, plain)
            else:
                self.weights[key] = nn.Parameter(plain)

    def named_gradients(self) -> dict[str, Tensor | None]:
        """The gradient of each weight under its name in the built model."""
        return {key.replace("/", "."): weight.grad for key, weight in self.weights.items()}

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        taps = []
        x_BCTF = self._norm_relu(self._conv(logmel_BCTF, "stem.conv", padding=1), "stem.norm")
        for index, block in enumerate(self.architecture.blocks):
            name = f"blocks.{index}"
            if self.architecture.kind == "plain":
                x_BCTF = self._norm_relu(self._operator(x_BCTF, f"{name}.operator", block), f"{name}.norm")
                pool = block.pool
            else:
                x_BCTF = self._merged(x_BCTF, name, block)
                if self.architecture.eca != 0:
                    x_BCTF = self._attended(x_BCTF, name)
                x_BCTF = self._norm_relu(x_BCTF, f"{name}.norm")
                halved = block.cut and self.architecture.merge != "splice"
                pool = (block.pool[0], 1) if halved else block.pool
            kernel = min(pool[0], x_BCTF.shape[2]), min(pool[1], x_BCTF.shape[3])
            x_BCTF = functional.avg_pool2d(x_BCTF, kernel)
            if index + 1 in self.architecture.tap_numbers:
                taps.append(x_BCTF.mean((2, 3)))
        hidden_BC = self._linear(torch.cat(taps, 1), "head.hidden").relu()
        return self._linear(hidden_BC, "head.classes")

    def _merged(self, x_BCTF: Tensor, name: str, block: Block) -> Tensor:
        heavy, light = cut(block, self.architecture.merge, x_BCTF.shape[3])
        if not light:
            return self._distilled(x_BCTF, name, block)
        low, high = (heavy, light) if self.architecture.heavy == "low" else (light, heavy)
        low_BCTF, high_BCTF = x_BCTF[..., :low], x_BCTF[..., low : low + high]
        if low + high > x_BCTF.shape[3]:  # a single bin is in both parts
            low_BCTF = high_BCTF = x_BCTF
        if self.architecture.heavy == "low":
            low_BCTF, high_BCTF = self._distilled(low_BCTF, name, block), self._conv(high_BCTF, f"{name}.light")
        else:
            low_BCTF, high_BCTF = self._conv(low_BCTF, f"{name}.light"), self._distilled(high_BCTF, name, block)
        if self.architecture.merge == "add":
            return low_BCTF + high_BCTF
        return torch.cat([low_BCTF, high_BCTF], 1 if self.architecture.merge == "concat" else 3)

    def _distilled(self, x_BCTF: Tensor, name: str, block: Block) -> Tensor:
        r1_BCTF = self._stage(x_BCTF, f"{name}.first", block)
        r3_BCTF = self._stage(self._stage(r1_BCTF, f"{name}.second", block), f"{name}.third", block)
        if self.architecture.kind == "chain":
            return self._conv(r3_BCTF, f"{name}.fuse")
        d0_BCTF, d1_BCTF = self._conv(x_BCTF, f"{name}.distil_input"), self._conv(r1_BCTF, f"{name}.distil_first")
        return self._conv(torch.cat([d0_BCTF, d1_BCTF, r3_BCTF], 1), f"{name}.fuse")

    def _stage(self, x_BCTF: Tensor, name: str, block: Block) -> Tensor:
        return self._norm_relu(self._operator(x_BCTF, f"{name}.operator", block), f"{name}.norm")

    def _operator(self, x_BCTF: Tensor, name: str, block: Block) -> Tensor:
        kind, options = block.operator, dict(block.options)
        if kind == "sc":
            groups = x_BCTF.shape[1] // self._weight(f"{name}.pointwise").shape[1]
            return self._cross(
                self._conv(x_BCTF, f"{name}.pointwise", groups=groups), f"{name}.cross", int(options.get("dilation", 1))
            )
        if kind == "osc":
            return self._cross(self._conv(self._conv(x_BCTF, f"{name}.squeeze"), f"{name}.expand"), f"{name}.cross")
        if kind == "spc":
            part = f"{name}.partial"
            worked = len(self._weight(f"{part}.pointwise"))
            worked_BCTF = self._cross(self._conv(x_BCTF[:, :worked], f"{part}.pointwise"), f"{part}.cross")
            return self._conv(torch.cat([worked_BCTF, x_BCTF[:, worked:]], 1), f"{name}.pointwise")
        if kind == "conv":
            return self._conv(x_BCTF, f"{name}.conv", padding=1)
        if kind == "rep":
            return self._branches(self._conv(x_BCTF, f"{name}.pointwise"), f"{name}.branches.branches")
        raise NotImplementedError(f"no equation of {kind!r} is written here")

    def _cross(self, x_BCTF: Tensor, name: str, d: int = 1) -> Tensor:
        along_time, along_mel = self._weight(name, "along_time"), self._weight(name, "along_mel")
        C = x_BCTF.shape[1]
        s3x1_BCTF = functional.conv2d(x_BCTF, along_time, padding=(d, 0), dilation=(d, 1), groups=C)
        return s3x1_BCTF + functional.conv2d(x_BCTF, along_mel, padding=(0, d), dilation=(1, d), groups=C)

    def _branches(self, x_BCTF: Tensor, name: str) -> Tensor:
        maps = []
        for index, (t, f) in enumerate(((1, 1), (0, 0), (1, 0), (0, 1))):
            weight = self._weight(f"{name}.{index}.conv")
            y_BCTF = functional.conv2d(x_BCTF, weight, padding=(t, f), groups=x_BCTF.shape[1])
            maps.append(self._normed(y_BCTF, f"{name}.{index}.norm"))
        return torch.stack(maps).sum(0)

    def _attended(self, x_BCTF: Tensor, name: str) -> Tensor:
        kernel = self._weight(f"{name}.attention.conv")
        means_B1C = x_BCTF.mean((2, 3))[:, None]
        scale_BC = functional.conv1d(means_B1C, kernel, padding=kernel.shape[2] // 2)[:, 0].sigmoid()
        return x_BCTF * scale_BC[:, :, None, None]

    def _norm_relu(self, x_BCTF: Tensor, name: str) -> Tensor:
        return self._normed(x_BCTF, name).relu()

    def _normed(self, x_BCTF: Tensor, name: str) -> Tensor:
        key = name.replace(".", "/")
        mean_C, var_C = getattr(self, f"{key}/running_mean"), getattr(self, f"{key}/running_var")
        return functional.batch_norm(
            x_BCTF, mean_C, var_C, self._weight(name), self._weight(name, "bias"), training=self.training
        )

    def _conv(self, x_BCTF: Tensor, name: str, padding: int = 0, groups: int = 1) -> Tensor:
        return functional.conv2d(x_BCTF, self._weight(name), self._bias(name), padding=padding, groups=groups)

    def _linear(self, x_BC: Tensor, name: str) -> Tensor:
        return functional.linear(x_BC, self._weight(name), self._bias(name))

    def _weight(self, name: str, kind: str = "weight") -> Tensor:
        return self.weights[f"{name}.{kind}".replace(".", "/")]

    def _bias(self, name: str) -> Tensor | None:
        key = f"{name}.bias".replace(".", "/")
        return self.weights[key] if key in self.weights else None  # noqa: SIM401  # a ParameterDict
