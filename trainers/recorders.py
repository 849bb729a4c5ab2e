"""Recorders as they differ: their response, how they compress, their level and their noise floor.

    response      what a recorder does to a spectrum
    compressed    what its gain control does to the level
    record        both, and its noise: a recording as the recorder would have made it

Nothing here imports torch. Legend of array suffixes: N samples, T blocks of the gain control, G rows of a grid over
frequency, Q bins of a spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

KNOTS_HZ = (40, 63, 100, 160, 250, 400, 800, 1600, 3150, 5000, 7000, 10_000, 14_000, 18_000, 21_500)


@dataclass(frozen=True)
class Recorder:
    """A phone: its response at KNOTS_HZ (dB re recorder a), compression ratio, level and noise floor (dB re full scale).

    Source of the responses: means over TAU 2020/2022 Mobile's parallel recordings, relative to a, rounded to 1 dB.
    Assumed: ratio, level and floor; the data set's own simulation is unpublished.
    """

    response_db: tuple[int, ...]
    ratio: float
    level_db: float
    floor_db: float


RECORDERS: dict[str, Recorder] = {
    "a": Recorder((0,) * 15, 1.0, -24, -84),
    "b": Recorder((-13, -7, -1, 4, 7, 7, 7, 5, 0, 0, 0, -2, 0, 3, -2), 1.5, -26, -70),
    "c": Recorder((-1, 0, 0, 1, 2, 2, 4, 2, 0, 2, 5, 2, 6, 1, -5), 1.3, -28, -74),
    "s1": Recorder((-24, -16, -2, 8, 10, 9, 4, 7, 0, -1, -2, -2, -13, -15, -13), 1.6, -24, -74),
    "s2": Recorder((-30, -21, -7, 4, 9, 11, 6, 12, 6, 6, 14, -1, -7, 1, -7), 2.0, -22, -70),
    "s3": Recorder((-26, -16, -1, 7, 9, 9, 8, 7, 2, 10, 5, -3, -9, -8, -10), 1.4, -26, -72),
    "s4": Recorder((-26, -17, -2, 6, 8, 8, 8, 7, 4, 4, 1, -2, -8, -7, -8), 2.4, -20, -66),
    "s5": Recorder((-26, -16, -2, 6, 8, 8, 8, 8, 5, 7, 5, 0, -4, -8, -9), 2.8, -29, -64),
    "s6": Recorder((-27, -17, -1, 9, 12, 12, 13, 8, 6, 2, 5, 3, 6, -1, -6), 2.2, -27, -62),
}

# Assumed, and tuned with the synthetic data (`benchmarks.synthetic_data`): how far one take strays from the table, how far
# the table leaves out a recorder's own ripple, and how far levels differ from take to take, in dB (standard deviations).
TAKE_SD_DB = 1.5
RIPPLE_SD_DB = 3.5
LEVEL_SD_DB = 4.0
# Assumed: the gain control's block, and the blocks over which a level is forgotten to 1/e.
BLOCK_S = 512 / 44_100
MEMORY_BLOCKS = 6
# Assumed: gain control does not raise pauses, where a recording may have digital silence, to what is heard.
PAUSE_DB = -20.0
# Assumed: the responses ring for no longer than this.
RING_S = 0.5
_GRID_HZ = (20, 22_050)
_GRID = 1024
_TINY = np.float32(1e-12)


def response(recorder: str, seed: int, rng: np.random.Generator, n_spectrum: int, sample_rate: int) -> Floats:
    """The gain (Q,), an amplitude, of one take by a recorder at the bins of a real spectrum of `n_spectrum` samples.

    It is the table, what this take strays from it (drawn from `rng`) and the recorder's own ripple, which `seed` fixes.
    """
    response_db_K = np.add(RECORDERS[recorder].response_db, wander(rng, len(KNOTS_HZ), TAKE_SD_DB))
    gain_db_G = np.interp(_octaves(), np.log2(KNOTS_HZ), response_db_K) + _ripple(seed, recorder)
    gain_G = (10 ** (gain_db_G / 20)).astype(np.float32)
    return gain_G[_rows(n_spectrum, sample_rate)]


def compressed(
    heard_N: Floats, recorder: str, sample_rate: int, rng: np.random.Generator, pause_db: float = -math.inf
) -> Floats:
    """The waveform (N,), cut to whole blocks, with the recorder's compression and at its level, which strays from take to
    take (drawn from `rng`).

    Loud passages are lowered and quiet ones raised, those below `pause_db` (re the whole) no more than one at it.
    """
    phone = RECORDERS[recorder]
    n = round(sample_rate * BLOCK_S)
    blocks_TN = heard_N[: len(heard_N) // n * n].reshape(-1, n) / np.maximum(np.sqrt(np.mean(heard_N**2)), _TINY)
    level_db_T = np.maximum(10 * np.log10(np.mean(blocks_TN**2, axis=1) + 1e-9), pause_db)
    smooth = np.exp(-np.arange(4 * MEMORY_BLOCKS) / MEMORY_BLOCKS)
    level_db_T = np.convolve(np.pad(level_db_T, (len(smooth) - 1, 0), mode="edge"), smooth / smooth.sum(), mode="valid")
    gain_T = 10 ** (((1 / phone.ratio - 1) * level_db_T + phone.level_db + rng.normal(0, LEVEL_SD_DB)) / 20)
    ramp = np.linspace(0, 1, n, endpoint=False, dtype=np.float32)
    after_T = np.append(gain_T[1:], gain_T[-1])
    blocks_TN *= gain_T.astype(np.float32)[:, None] * (1 - ramp) + after_T.astype(np.float32)[:, None] * ramp
    return blocks_TN.ravel()


def record(sound_N: Floats, recorder: str, sample_rate: int, seed: int, rng: np.random.Generator) -> Floats:
    """The waveform (N,), within full scale, that a recorder makes of a recording; the same for the same `rng`.

    Where the gain control's level would leave full scale, the level is lower. Silence stays the recorder's noise floor.
    """
    n_block = round(sample_rate * BLOCK_S)
    n_whole = math.ceil(len(sound_N) / n_block) * n_block
    n_spectrum = math.ceil((n_whole + RING_S * sample_rate) / 4096) * 4096  # small factors: a fast transform
    spectrum_Q = np.fft.rfft(sound_N, n_spectrum) * response(recorder, seed, rng, n_spectrum, sample_rate)
    heard_N = np.fft.irfft(spectrum_Q, n_spectrum)[:n_whole].astype(np.float32, copy=False)
    recorded_N = compressed(heard_N, recorder, sample_rate, rng, PAUSE_DB)[: len(sound_N)]
    recorded_N /= max(1.0, float(np.abs(recorded_N).max(initial=0)))
    recorded_N += noise_floor(recorder) * rng.standard_normal(len(recorded_N), dtype=np.float32)
    return np.clip(recorded_N, -1, 1)


def noise_floor(recorder: str) -> np.float32:
    """The recorder's own noise: its rms as a share of full scale."""
    return np.float32(10 ** (RECORDERS[recorder].floor_db / 20))


def wander(rng: np.random.Generator, n: int, sd_db: float) -> Floats:
    """A random curve (n,) in dB: neighbouring knots alike, of this standard deviation."""
    own = rng.normal(0, 1, n + 2)
    return (sd_db * (own[:-2] + own[1:-1] + own[2:]) / math.sqrt(3)).astype(np.float32)


@lru_cache(maxsize=16)
def _ripple(seed: int, recorder: str) -> Floats:
    """What the coarse table of a recorder's response leaves out: its own fine ripple (G,); none for the reference a."""
    number = list(RECORDERS).index(recorder)
    rng = np.random.default_rng((seed, 5, number))
    fine = np.linspace(0, 1, 80)
    ripple_db = np.interp(np.linspace(0, 1, _GRID), fine, wander(rng, len(fine), RIPPLE_SD_DB))
    return (ripple_db * (number > 0)).astype(np.float32)


@lru_cache(maxsize=1)
def _octaves() -> Floats:
    """The frequencies (G,) of the responses on a fine grid, in octaves."""
    low_hz, high_hz = _GRID_HZ
    return np.linspace(np.log2(low_hz), np.log2(high_hz), _GRID, dtype=np.float32)


@lru_cache(maxsize=16)
def _rows(n_spectrum: int, sample_rate: int) -> NDArray[np.int64]:
    """For every bin (Q,) of a spectrum, the row of the fine grid: a table look-up instead of interpolation."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(n_spectrum, 1 / sample_rate), _GRID_HZ[0]))
    return np.searchsorted(_octaves(), octaves).clip(0, _GRID - 1)
