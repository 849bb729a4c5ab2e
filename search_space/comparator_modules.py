"""The networks DSSDN is compared with, as torch modules; their names, sources and published figures are in `comparators.py`.

All take a log-mel, (B, 1, T, F) to (B, K) logits, of any size from `least` x `least` on. Written from their papers' tables.
Convolutions are initialised after He (normal, fan-in, zero biases), linear layers as torch does, as in `model.py`.

Shape legend: B batch, C channels, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_space.blocks import channel_means, named, pointwise
from search_space.errors import UserError


def prepare(model: nn.Module, channels_last: bool = True) -> None:
    """Initialise the convolutions after He, and let the maps travel in channels_last where it pays.

    Only weights that stay contiguous in torch's sense are laid out anew (1x1, channel-wise, and those of the one-channel
    stem), as safetensors asks; the stem's output has the layout then, and every later layer follows its input.

    Measured: training step, fp32, batch 4 at 108x64, 1 thread of an EPYC with AVX-512, ms a clip without and with: MobileNet V1
    18.3 and 9.7, V2 15.2 and 8.7, V3 6.5 and 5.0, Inception V1 23.0 and 17.9, SP4ASC 18.9 and 17.8; ResNet 39.6 and 54.3, so
    it goes without.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            if channels_last and (layer.kernel_size == (1, 1) or layer.weight.shape[1] == 1):
                layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub lacks it


def check_input(model: nn.Module, x_BCTF: Tensor, channels: int, least: int) -> None:
    """Raises `UserError` when a network, called by its `title` or class, cannot read a map of this shape. Silent while being traced, where sizes are
    symbols."""
    if torch.jit.is_tracing():
        return
    name = getattr(model, "title", type(model).__name__)
    if x_BCTF.ndim != 4 or x_BCTF.shape[1] != channels:
        raise UserError(
            f"{name} takes maps of {channels} channel{'s' * (channels > 1)}, (B, {channels}, T, F); "
            f"got {tuple(x_BCTF.shape)}; reshape the log-mel"
        )
    T, F = x_BCTF.shape[2:]
    if min(T, F) < least:
        raise UserError(
            f"{name} takes at least {least} frames x {least} mels; got {T} x {F}; use longer clips or more mel bins"
        )


def normed(
    c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1, activation: nn.Module | None = None
) -> nn.Sequential:
    """A convolution without bias that keeps T x F but for its stride (rounded up), batch norm, and an activation if any."""
    layers: dict[str, nn.Module] = {
        "conv": nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False),
        "norm": nn.BatchNorm2d(c_out),
    }
    return named(**layers, **({"activation": activation} if activation is not None else {}))


class Classifier(nn.Module):
    """A trunk of maps, their global average, and a head: the shape that four of the five classics share.

    Needs 32 frames x 32 mels: their trunks halve the map five times.
    """

    least = 32
    channels_last = True

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.trunk, self.head = trunk, head
        prepare(self, self.channels_last)

    @property
    def stages(self) -> nn.Module:
        """The modules, first to last, whose outputs are the network's stages: all layers and blocks of the trunk."""
        return self.trunk

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        check_input(self, logmel_BCTF, 1, self.least)
        return self.head(channel_means(self.trunk(logmel_BCTF)))


class Residual(nn.Module):
    """relu(x + 3x3(3x3(x))), the shortcut a 1x1 with batch norm where the width or the size changes.

    Source: ResNet (arXiv 1512.03385), sec. 3.3 and fig. 3; shortcuts of option B.
    """

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        super().__init__()
        self.first = normed(c_in, c_out, 3, stride, activation=nn.ReLU(inplace=True))
        self.second = normed(c_out, c_out, 3)
        same = stride == 1 and c_in == c_out
        self.shortcut = nn.Identity() if same else normed(c_in, c_out, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return self.relu(self.shortcut(x_BCTF) + self.second(self.first(x_BCTF)))


class ResNet34(Classifier):
    """ResNet of 34 layers.

    Source: ResNet (arXiv 1512.03385), Table 1, the column of 34 layers.
    """

    channels_last = False

    def __init__(self, n_classes: int) -> None:
        stages, c_in = [], 64
        for c_out, depth in ((64, 3), (128, 4), (256, 6), (512, 3)):
            for index in range(depth):
                stages.append(Residual(c_in, c_out, 2 if index == 0 and c_out > 64 else 1))
                c_in = c_out
        stem = normed(1, 64, 7, stride=2, activation=nn.ReLU(inplace=True))
        super().__init__(nn.Sequential(stem, nn.MaxPool2d(3, 2, 1), *stages), nn.Linear(c_in, n_classes))


class MobileNetV1(Classifier):
    """MobileNet, width 1: thirteen channel-wise 3x3 convolutions, each followed by a 1x1.

    Source: MobileNets (arXiv 1704.04861), Table 1.
    """

    def __init__(self, n_classes: int) -> None:
        layers, c_in = [normed(1, 32, 3, stride=2, activation=nn.ReLU(inplace=True))], 32
        rows = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
        for c_out, stride in rows:
            layers.append(normed(c_in, c_in, 3, stride, groups=c_in, activation=nn.ReLU(inplace=True)))
            layers.append(normed(c_in, c_out, 1, activation=nn.ReLU(inplace=True)))
            c_in = c_out
        super().__init__(nn.Sequential(*layers), nn.Linear(c_in, n_classes))


class SqueezeExcitation(nn.Module):
    """Scales each channel by a hard sigmoid of two 1x1 convolutions on the channels' means, (B, C, T, F) to the same.

    Source: MobileNet V3 (arXiv 1905.02244), sec. 5.3: the hidden width is a quarter of the channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.squeeze = pointwise(channels, channels // 4, bias=True)
        self.excite = pointwise(channels // 4, channels, bias=True)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        means_BC11 = channel_means(x_BCTF)[:, :, None, None]
        return x_BCTF * functional.hardsigmoid(self.excite(self.squeeze(means_BC11).relu()))


class InvertedResidual(nn.Module):
    """1x1 to `expanded` channels, a channel-wise convolution, 1x1 to `c_out` without activation; x is added where it fits.

    Source: MobileNet V2 (arXiv 1801.04381), sec. 3.3; with squeeze-and-excitation after the channel-wise convolution: V3.
    """

    def __init__(
        self,
        c_in: int,
        expanded: int,
        c_out: int,
        kernel: int,
        stride: int,
        activation: type[nn.Module],
        excited: bool = False,
        expand: bool = True,
    ) -> None:
        super().__init__()
        layers = [normed(c_in, expanded, 1, activation=activation(inplace=True))] if expand else []
        layers.append(normed(expanded, expanded, kernel, stride, groups=expanded, activation=activation(inplace=True)))
        excitation = [SqueezeExcitation(expanded)] if excited else []
        self.layers = nn.Sequential(*layers, *excitation, normed(expanded, c_out, 1))
        self.adds = stride == 1 and c_in == c_out

    def forward(self, x_BCTF: Tensor) -> Tensor:
        y_BCTF = self.layers(x_BCTF)
        return x_BCTF + y_BCTF if self.adds else y_BCTF


class MobileNetV2(Classifier):
    """MobileNet V2, width 1; the first block, whose expansion is 1, has no 1x1 before its channel-wise convolution.

    Source: MobileNet V2 (arXiv 1801.04381), Table 2. Assumed: dropout 0.2 before the classifier, as in later code.
    """

    def __init__(self, n_classes: int) -> None:
        layers: list[nn.Module] = [normed(1, 32, 3, stride=2, activation=nn.ReLU6(inplace=True))]
        c_in = 32
        rows = (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        )
        for expansion, c_out, depth, stride in rows:
            for index in range(depth):
                step = stride if index == 0 else 1
                expanded = expansion * c_in
                layers.append(InvertedResidual(c_in, expanded, c_out, 3, step, nn.ReLU6, expand=expansion > 1))
                c_in = c_out
        layers.append(normed(c_in, 1280, 1, activation=nn.ReLU6(inplace=True)))
        super().__init__(nn.Sequential(*layers), named(dropout=nn.Dropout(0.2), classes=nn.Linear(1280, n_classes)))


class MobileNetV3Small(Classifier):
    """MobileNet V3 Small, width 1, with the squeeze-and-excitation that its table puts on the last convolution.

    Later code leaves that one out and skips the first block's 1x1, which expands nothing; the printed counts ask for both.

    Source: MobileNet V3 (arXiv 1905.02244), Table 2. Assumed: dropout 0.2 in the head, from its training section.
    """

    def __init__(self, n_classes: int) -> None:
        layers: list[nn.Module] = [normed(1, 16, 3, stride=2, activation=nn.Hardswish(inplace=True))]
        c_in = 16
        rows: tuple[tuple[int, int, int, bool, type[nn.Module], int], ...] = (
            (3, 16, 16, True, nn.ReLU, 2),
            (3, 72, 24, False, nn.ReLU, 2),
            (3, 88, 24, False, nn.ReLU, 1),
            (5, 96, 40, True, nn.Hardswish, 2),
            (5, 240, 40, True, nn.Hardswish, 1),
            (5, 240, 40, True, nn.Hardswish, 1),
            (5, 120, 48, True, nn.Hardswish, 1),
            (5, 144, 48, True, nn.Hardswish, 1),
            (5, 288, 96, True, nn.Hardswish, 2),
            (5, 576, 96, True, nn.Hardswish, 1),
            (5, 576, 96, True, nn.Hardswish, 1),
        )
        for kernel, expanded, c_out, excited, activation, stride in rows:
            layers.append(InvertedResidual(c_in, expanded, c_out, kernel, stride, activation, excited))
            c_in = c_out
        layers += [normed(c_in, 576, 1, activation=nn.Hardswish(inplace=True)), SqueezeExcitation(576)]
        head = named(
            hidden=nn.Linear(576, 1024),
            activation=nn.Hardswish(inplace=True),
            dropout=nn.Dropout(0.2),
            classes=nn.Linear(1024, n_classes),
        )
        super().__init__(nn.Sequential(*layers), head)


def biased(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """A convolution with bias that keeps T x F but for its stride (rounded up), and ReLU."""
    return named(conv=nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2), relu=nn.ReLU(inplace=True))


class Inception(nn.Module):
    """Four branches side by side, concatenated: 1x1; 1x1 and 3x3; 1x1 and 5x5; 3x3 max pool and 1x1.

    Source: Going deeper with convolutions (arXiv 1409.4842), fig. 2b; widths in the order of its Table 1.
    """

    def __init__(self, c_in: int, one: int, before3: int, three: int, before5: int, five: int, pooled: int) -> None:
        super().__init__()
        self.one = biased(c_in, one, 1)
        self.three = nn.Sequential(biased(c_in, before3, 1), biased(before3, three, 3))
        self.five = nn.Sequential(biased(c_in, before5, 1), biased(before5, five, 5))
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), biased(c_in, pooled, 1))

    def forward(self, x_BCTF: Tensor) -> Tensor:
        return torch.cat([branch(x_BCTF) for branch in (self.one, self.three, self.five, self.pooled)], dim=1)


class InceptionV1(nn.Module):
    """GoogLeNet without batch norm, and with its two auxiliary classifiers, which are counted and not trained.

    They hold 8.5 of the 14.5 M params, which are the published ones. Their paper adds 0.3 times the loss of each in training; here
    `forward` gives the logits of the main classifier alone, in training too, as one loop for all networks needs: the auxiliary
    ones get no gradient, keep their initial weights and cost nothing.

    Needs 32 frames x 32 mels.

    Source: Going deeper with convolutions (arXiv 1409.4842), Table 1 and sec. 5. Assumed: the auxiliary classifiers pool to 8x4,
    which is what their 5x5 pool of stride 3 gives at 431x256, so that their linear layers fit every input; left out: the
    response normalisation of its fig. 3, which has no parameters.
    """

    least = 32

    def __init__(self, n_classes: int) -> None:
        super().__init__()

        def halved() -> nn.Module:
            return nn.MaxPool2d(3, 2, ceil_mode=True)

        def auxiliary(channels: int) -> nn.Sequential:
            return named(
                pool=nn.AdaptiveAvgPool2d((8, 4)),
                conv=biased(channels, 128, 1),
                flat=nn.Flatten(),
                hidden=nn.Linear(128 * 8 * 4, 1024),
                relu=nn.ReLU(inplace=True),
                dropout=nn.Dropout(0.7),
                classes=nn.Linear(1024, n_classes),
            )

        stem = (biased(1, 64, 7, stride=2), halved(), biased(64, 64, 1), biased(64, 192, 3), halved())
        self.early = nn.Sequential(
            *stem,
            Inception(192, 64, 96, 128, 16, 32, 32),
            Inception(256, 128, 128, 192, 32, 96, 64),
            halved(),
            Inception(480, 192, 96, 208, 16, 48, 64),
        )
        self.middle = nn.Sequential(
            Inception(512, 160, 112, 224, 24, 64, 64),
            Inception(512, 128, 128, 256, 24, 64, 64),
            Inception(512, 112, 144, 288, 32, 64, 64),
        )
        self.late = nn.Sequential(
            Inception(528, 256, 160, 320, 32, 128, 128),
            halved(),
            Inception(832, 256, 160, 320, 32, 128, 128),
            Inception(832, 384, 192, 384, 48, 128, 128),
        )
        self.head = named(dropout=nn.Dropout(0.4), classes=nn.Linear(1024, n_classes))
        self.after_early, self.after_middle = auxiliary(512), auxiliary(528)
        prepare(self)

    @property
    def stages(self) -> tuple[nn.Module, ...]:
        """The modules, first to last, whose outputs are the network's stages: what lies between two auxiliary classifiers."""
        return self.early, self.middle, self.late

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        check_input(self, logmel_BCTF, 1, self.least)
        return self.head(channel_means(self.late(self.middle(self.early(logmel_BCTF)))))


class SeparableBlock(nn.Module):
    """relu(bn(s3x1(p1x1(x)) + s1x3(p1x1(x)))) and a 2x2 average pool, the two channel-wise s with dilation 2.

    Source: SP4ASC (Puy, Jain, Bursuc, DCASE 2021), sec. 2: the operator that DSSDN's eq. 1 takes up, there without dilation.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.pointwise = pointwise(c_in, c_out)
        self.along_time = nn.Conv2d(c_out, c_out, (3, 1), padding=(2, 0), dilation=(2, 1), groups=c_out, bias=False)
        self.along_mel = nn.Conv2d(c_out, c_out, (1, 3), padding=(0, 2), dilation=(1, 2), groups=c_out, bias=False)
        self.norm = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        x_BCTF = self.pointwise(x_BCTF)
        return self.pool(self.relu(self.norm(self.along_time(x_BCTF) + self.along_mel(x_BCTF))))


class Sp4asc(nn.Module):
    """SP4ASC: batch norm of every mel bin, four separable blocks, the mean over mel, then max plus mean over time.

    (B, 1, T, F) to (B, K) with F = `n_mels`, at least 16 frames x 16 mels: the blocks halve the map four times.

    Source: SP4ASC (Puy, Jain, Bursuc, DCASE 2021) and its authors' released code (github.com/valeoai/SP4ASC). This is the form
    it is trained in; for deployment they fold every batch norm into the convolution before it.
    """

    least = 16

    def __init__(self, n_classes: int, n_mels: int = 256) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(n_mels)
        widths = (1, 64, 128, 128, 128)
        self.blocks = nn.Sequential(*map(SeparableBlock, widths[:-1], widths[1:]))
        self.head = named(
            dropout=nn.Dropout(0.2),
            hidden=nn.Linear(128, 128),
            relu=nn.ReLU(inplace=True),
            dropout_hidden=nn.Dropout(0.2),
            classes=nn.Linear(128, n_classes),
        )
        prepare(self)

    @property
    def stages(self) -> nn.Module:
        """The modules, first to last, whose outputs are the network's stages: its blocks."""
        return self.blocks

    def forward(self, logmel_BCTF: Tensor) -> Tensor:
        check_input(self, logmel_BCTF, 1, self.least)
        n_mels = self.norm.num_features
        if not torch.jit.is_tracing() and logmel_BCTF.shape[3] != n_mels:
            raise UserError(
                f"Sp4asc has parameters for each mel bin, here {n_mels}; got a log-mel of {logmel_BCTF.shape[3]}; "
                f"build it with n_mels={logmel_BCTF.shape[3]}"
            )
        normed_BCTF = self.norm(logmel_BCTF.transpose(1, 3)).transpose(1, 3)
        means_BCT = self.blocks(normed_BCTF).mean(dim=3)
        return self.head(means_BCT.amax(dim=2) + means_BCT.mean(dim=2))
