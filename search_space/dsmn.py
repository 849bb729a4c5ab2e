"""The DSMN networks of DCASE 2023 Task 1 (Wang_61_t1), the first form of the distillation block, and their two-channel input.

They are in the order of the table their authors print, and equal to it by the counting of that challenge (torchinfo at
(1, 2, 256, 44); their code turns mel x time into time x mel first, our maps are time x mel from the start):

| | blocks | params | MACs | printed |
|---|---|---|---|---|
| dsmn-1 | five that cut the mel axis | 45,164 | 8.646 M | 45.1 k, 8.64 M |
| dsmn-2 | one that cuts, four that do not | 56,172 | 16.746 M | 56.1 k, 16.74 M |
| dsmn-3 | five that do not cut | 56,556 | 25.442 M | 56.5 k, 25.44 M |
| dsmn-4 | five that cut, wider, hidden layer of 100 | 140,748 | 20.920 M | 121.8 k, 20.92 M |
| dsmn-4-64 | the same with a hidden layer of 64 | 121,812 | 20.902 M | 121.8 k, 20.92 M |

Where the released code differs from what is said of it:

* Rows 2 and 3 of the printed table are swapped with the files: row 2 is `model3.py`, row 3 is `model2.py`.
* `model4.py` cannot be built: it names five widths and uses six, and its first linear layer takes 224 values where its blocks give
  512. Repaired, its MACs meet the printed ones with the hidden layer of 100 and its params with one of 64: no single
  network has both, so both are here.
* A sixth block is built and never used; counters of parameters that trust the module count it (53,039 for the first). Left out.
* The 1x1 before the two channel-wise convolutions has as many groups as output channels: it scales channels (or merges pairs
  of them) and does not mix them, unlike DSSDN's equation 1. The channel-wise convolutions have dilation 2, which is not in DSSDN.
* The cut halves are added, not spliced, so both must be of one size. The factored 1x1 of OSC is not released.
* ECA has the fixed kernel 3, which is also what the adaptive rule gives at all these widths (8 to 96; 3 up to 127).
* Their 13 outputs are 10 scenes and 3 super-classes, in this order: indoor (airport, metro station, shopping mall), outdoor
  (park, public square, pedestrian street, street with traffic), transport (bus, metro, tram). Here `n_classes` is the number of outputs:
  13 is theirs, 10 the plain form for training on scenes alone. Quantisation-aware training is a recipe's business.

Assumed, where the code gives no answer: a map of odd mel bins is cut with its middle bin in both halves, and pooling stops at
size 1, so that every input of at least 1x1 runs.

Not as released: their code makes the two channels of the raw log-mel of a clip. Here `build_model` puts `two_channels` in front of the
network, so in training it sees what every network sees: a log-mel averaged down to the training input, normalised per mel bin,
mixed and masked.

Source: github.com/Wangkkklll/DSMN_dcase2023 (models/, train.py and README).

Shape legend: B batch, C channels, T frames, F mel bins, K outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from search_space.blocks import ChannelAttention, MeanPool, channel_means, named, pointwise
from search_space.comparator_modules import check_input, prepare


def two_channels(logmel_BTF: Tensor) -> Tensor:
    """A log-mel and its change in time, (B, T, F) to (B, 2, T, F), each of mean 0 and standard deviation 1 over its clip.

    The deltas are the slope over five frames, sum of n (x[t+n] - x[t-n]) / 10 for n = 1, 2, the first and last frame repeated
    beyond the ends; they are taken of the standardised log-mel and standardised again. A map that is constant, as the deltas of
    silence are, becomes 0, where the released code divides by 0; so does a map of one value, because the
    deviation is the root of the mean square (with n - 1 in place of n it differs by 4e-5 at 44x256).

    Source: DSMN's train.py, with torchaudio's ComputeDeltas(5).
    """
    logmel_BTF = _standardised(logmel_BTF)
    padded_BTF = functional.pad(logmel_BTF.transpose(1, 2), (2, 2), mode="replicate").transpose(1, 2)
    T = logmel_BTF.shape[1]
    shifted = [padded_BTF[:, start : start + T] for start in range(5)]
    deltas_BTF = (2 * (shifted[4] - shifted[0]) + shifted[3] - shifted[1]) / 10
    return torch.stack([logmel_BTF, _standardised(deltas_BTF)], dim=1)


def _standardised(x_BTF: Tensor) -> Tensor:
    std_B11, mean_B11 = torch.std_mean(x_BTF, dim=(1, 2), correction=0, keepdim=True)
    return (x_BTF - mean_B11) / std_B11.clamp_min(1e-6)


class Separable(nn.Module):
    """relu(bn(s3x1(g(x)) + s1x3(g(x)))), the two channel-wise s with dilation 2, g a 1x1 with one group an output channel."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.scale = nn.Conv2d(c_in, c_out, 1, groups=c_out, bias=False)
        self.along_time = nn.Conv2d(c_out, c_out, (3, 1), padding=(2, 0), dilation=(2, 1), groups=c_out, bias=False)
        self.along_mel = nn.Conv2d(c_out, c_out, (1, 3), padding=(0, 2), dilation=(1, 2), groups=c_out, bias=False)
        self.norm = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        x_BCTF = self.scale(x_BCTF)
        return self.relu(self.norm(self.along_time(x_BCTF) + self.along_mel(x_BCTF)))


class DsmnBlock(nn.Module):
    """One block, (B, c_in, T, F) to (B, c_out, T // 2, F // 2).

    Cut: the lower half of the mel axis passes a chain of three separable layers and a 1x1, the upper half a 1x1; the three are
    added, which halves F, and the pool halves T. Not cut: the chain on the whole map, 1x1s of the input and of the first
    layer's output, all three concatenated; the pool halves both.
    """

    def __init__(self, c_in: int, c_out: int, cut: bool) -> None:
        super().__init__()
        half = c_in // 2
        self.cut = cut
        self.first, self.second, self.third = Separable(c_in, c_in), Separable(c_in, c_in), Separable(c_in, half)
        self.distil_input = pointwise(c_in, half, bias=True)
        self.distil_other = pointwise(c_in, half, bias=True)
        merged = half if cut else 3 * half
        self.attention = ChannelAttention(merged, kernel=3)
        self.fuse = pointwise(merged, c_out, bias=True)
        self.norm = nn.BatchNorm2d(c_out)
        self.relu = nn.ReLU(inplace=True)
        self.pool = MeanPool(2, 1 if cut else 2)

    def forward(self, x_BCTF: Tensor) -> Tensor:
        if self.cut:
            F = x_BCTF.shape[3]
            n_half = (F + 1) // 2
            low_BCTF, high_BCTF = x_BCTF[..., :n_half], x_BCTF[..., F - n_half :]
            chain_BCTF = self.third(self.second(self.first(low_BCTF)))
            y_BCTF = self.distil_input(low_BCTF) + self.distil_other(high_BCTF) + chain_BCTF
        else:
            first_BCTF = self.first(x_BCTF)
            chain_BCTF = self.third(self.second(first_BCTF))
            y_BCTF = torch.cat([self.distil_input(x_BCTF), self.distil_other(first_BCTF), chain_BCTF], dim=1)
        return self.pool(self.relu(self.norm(self.fuse(self.attention(y_BCTF)))))


class Dsmn(nn.Module):
    """A DSMN network, (B, 2, T, F) of `two_channels` to (B, K) logits; `cuts` says of each block whether it cuts the mel axis."""

    def __init__(
        self,
        n_classes: int,
        cuts: Sequence[bool],
        widths: Sequence[int] = (24, 32, 64, 64, 64),
        hidden: int = 100,
    ) -> None:
        super().__init__()
        self.stem = pointwise(2, 16, bias=True)
        self.blocks = nn.ModuleList(map(DsmnBlock, (16, *widths[:-1]), widths, cuts))
        self.head = named(
            hidden=nn.Linear(sum(widths[1:]), hidden),
            relu=nn.ReLU(inplace=True),
            dropout=nn.Dropout(0.3),
            classes=nn.Linear(hidden, n_classes),
        )
        prepare(self)

    @property
    def stages(self) -> nn.ModuleList:
        """The modules, first to last, whose outputs are the network's stages: its blocks."""
        return self.blocks

    def forward(self, x_BCTF: Tensor) -> Tensor:
        check_input(self, x_BCTF, channels=2, least=1)
        x_BCTF = self.stem(x_BCTF)
        taps = []
        for block in self.blocks:
            x_BCTF = block(x_BCTF)
            taps.append(channel_means(x_BCTF))
        return self.head(torch.cat(taps[1:], dim=1))
