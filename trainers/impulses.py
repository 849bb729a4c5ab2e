"""Device impulse responses: clips as another device would have recorded them, applied to log-mels.

Recording through a device is a convolution with its impulse response. Training reads log-mels, so the response's power gain in every mel bin is
applied there: mel power times gain. That is the same where the response is shorter than a window and the spectrum flat within a mel bin; what it
leaves out is the ringing of longer responses, which smears sound over the next frames.

Measured against true convolution, means over mel bins in natural log power, the level aside: generated responses (as filters of 2,048 samples) on noise are
off by 0.02 of the 0.81 that they move a log-mel, on ten sounds of ESC-50 frame by frame by 0.03 of 0.52; random decaying responses of 9 ms on noise by 0.01 to
0.02 of 0.6 to 1.0, of 0.2 s by 0.1 of 0.4, of 1 s by 0.1 of 0.2: take responses of devices, not of rooms. `tests/test_impulses.py` asserts the order of these.

A response's gains are brought to a mean of 0 dB over the mel bins: it colours a clip and leaves its level.

B batch, N clips or samples, T frames, F mel bins, Q bins of a spectrum, R responses.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d

from search_space.errors import UserError
from trainers.audio import read_sound
from trainers.config import GENERATED
from trainers.features import FrontEnd, mel_filters, resampled
from trainers.recorders import KNOTS_HZ, wander
from trainers.teaching import response_files

if TYPE_CHECKING:
    from trainers.inputs import Inputs

# Source: CP-Mobile's code draws from the 66 responses of MicIRP.
N_GENERATED = 66
# Assumed: as far as the recorders of TAU differ from one another (`trainers.recorders`, whose own curves are not used: some of them are the test fold's).
SD_DB = 6.0
# Assumed: a quieter response than that is an empty file.
_SILENT = 1e-12


@dataclass(frozen=True)
class Impulses:
    """Responses for a training: `log_gain_RF` in natural log power, which clips of train (N,) they are for, and what takes a normalised log-mel
    to mel power and back."""

    log_gain_RF: Tensor
    eligible_N: Tensor
    mean_F: Tensor
    std_F: Tensor
    log_floor: float

    def of(self, index_B: Tensor) -> Callable[[Tensor, float, torch.Generator], Tensor]:
        """`through` for these clips of train."""
        return partial(self.through, index_B)

    def through(self, index_B: Tensor, logmel_BTF: Tensor, probability: float, generator: torch.Generator) -> Tensor:
        """The normalised batch (train's clips `index_B`), each eligible clip with this probability through a response of its own.

        The floor below which a log-mel does not go stays where it is: silence has nothing to be coloured.
        """
        device = logmel_BTF.device
        drawn_B = torch.rand(len(index_B), generator=generator) < probability
        which_B = torch.randint(len(self.log_gain_RF), (len(index_B),), generator=generator)
        chosen_B = (drawn_B & self.eligible_N[index_B]).to(device)
        mean_F, std_F = self.mean_F.to(device), self.std_F.to(device)
        coloured_BTF = through(logmel_BTF * std_F + mean_F, self.log_gain_RF[which_B].to(device), self.log_floor)
        return torch.where(chosen_B[:, None, None], (coloured_BTF - mean_F) / std_F, logmel_BTF)


def through(logmel_BTF: Tensor, log_gain_BF: Tensor, log_floor: float) -> Tensor:
    """Log-mels, ln(mel power + floor), whose mel power is multiplied by exp(`log_gain_BF`)."""
    power_BTF = (logmel_BTF.exp() - log_floor).clamp(min=0)
    return (power_BTF * log_gain_BF.exp()[:, None] + log_floor).log()


def open_impulses(source: str, inputs: Inputs, front_end: FrontEnd) -> Impulses:
    """The responses for these inputs: 'generated', or those of a folder. They are for the clips of the commonest recorder where recorders are
    named, as CP-Mobile's are for device a, else for all. Raises `UserError` for a folder without usable responses."""
    power_RQ = generated_power(front_end) if source == GENERATED else folder_power(Path(source), front_end)
    log_gain_RF = log_gains(power_RQ, front_end)
    mels = inputs.size[1]
    pooled_RF = adaptive_avg_pool1d(log_gain_RF, mels) if mels != log_gain_RF.shape[1] else log_gain_RF
    recorders = np.array([clip.recorder for clip in inputs.splits["train"].clips])
    names, counts = np.unique(recorders[recorders != ""], return_counts=True)
    eligible_N = recorders == names[counts.argmax()] if len(names) > 1 else np.ones(len(recorders), dtype=bool)
    return Impulses(pooled_RF, torch.from_numpy(eligible_N), inputs.mean_F, inputs.std_F, front_end.log_floor)


def log_gains(power_RQ: NDArray[np.float64], front_end: FrontEnd) -> Tensor:
    """What responses of this power gain at every bin of the spectrum do to the log power of every mel bin, (R, F), its mean over the bins 0."""
    filters_QF = mel_filters(front_end).double().numpy()
    gain_RF = power_RQ @ filters_QF / np.maximum(filters_QF.sum(0), _SILENT)
    log_RF = np.log(np.maximum(gain_RF, _SILENT))
    heard_F = filters_QF.sum(0) > 0
    log_RF -= log_RF[:, heard_F].mean(1, keepdims=True)
    return torch.from_numpy(np.where(heard_F, log_RF, 0.0)).float()


def generated_power(front_end: FrontEnd) -> NDArray[np.float64]:
    """The power gain (R, Q) of made-up devices: smooth random curves over frequency, always the same ones, no device of any data set."""
    rng = np.random.default_rng(0)
    hz_Q = np.maximum(np.arange(front_end.n_fft // 2 + 1) * front_end.sample_rate / front_end.n_fft, KNOTS_HZ[0])
    curves = (wander(rng, len(KNOTS_HZ), SD_DB) for _ in range(N_GENERATED))
    return np.stack([10 ** (np.interp(np.log2(hz_Q), np.log2(KNOTS_HZ), curve_db) / 10) for curve_db in curves])


def folder_power(folder: Path, front_end: FrontEnd) -> NDArray[np.float64]:
    """The power gain (R, Q) of every wav file of a folder, at the front end's rate. Raises `UserError` for files that are no responses."""
    powers = []
    for path in response_files(folder):
        sound = read_sound(path, path.name)
        wave_N = resampled(torch.from_numpy(sound.waveform_N).double(), sound.sample_rate, front_end.sample_rate)
        times = max(1, -(-len(wave_N) // front_end.n_fft))
        power_Q = torch.fft.rfft(wave_N, times * front_end.n_fft).abs().square().numpy()
        # Of a response longer than a window, the mean around each bin of the shorter spectrum.
        around = np.convolve(np.pad(power_Q, times // 2, mode="reflect"), np.ones(times) / times, mode="valid")
        powers.append(around[::times][: front_end.n_fft // 2 + 1])
        if not np.isfinite(powers[-1]).all() or powers[-1].max() < _SILENT:
            raise UserError(f"{path} is silent: it is no impulse response; take it out of the folder")
    return np.stack(powers)
