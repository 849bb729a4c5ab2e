"""What a made-up clip is drawn on: noise over time and frequency, tones over samples, and voices of both.

The rate and length of made-up clips are fixed here. Nothing here imports torch.

Legend of array suffixes: N samples, T control frames, Q frequency bins, P points of one period, V vowels, K syllables.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

SAMPLE_RATE = 44_100
DURATION_S = 3.0
N_SAMPLES = round(SAMPLE_RATE * DURATION_S)
CLIP_S = DURATION_S + 0.1  # what sounds throughout ends behind the clip's end

HOP = 512
FRAME = 2 * HOP
N_FRAMES = math.ceil(N_SAMPLES / HOP) + 1
FRAMES_PER_S = SAMPLE_RATE / HOP
BINS_HZ_Q = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)
OCTAVES_Q = np.log2(np.maximum(BINS_HZ_Q, 20.0))
WINDOW = np.sin(np.pi * (np.arange(FRAME) + 0.5) / FRAME).astype(np.float32)
PERIOD = 2048
PITCH_STEP = 64  # samples (1.5 ms) that share one pitch
SINE = (1.0,)
# Another number gives other sound: raise `synthetic.VERSION` with it.
BANK_SEED = 1


class Canvas:
    """One clip while it is being made: a field of noise power over time and frequency, and tones over samples.

    All levels are in dB relative to the background at the same frequency, so that an event is as audible in a place
    with a dull spectrum as in one with a bright one.
    """

    def __init__(self, rng: np.random.Generator, background_db_Q: Floats, background_db_T: Floats):
        self.rng = rng
        self.background_db_Q = background_db_Q
        self.power_TQ = _power(background_db_T)[:, None] * _power(background_db_Q)[None, :]
        self.tones_N = np.zeros(N_FRAMES * HOP, dtype=np.float32)

    def level_at(self, hz: float) -> float:
        return float(np.interp(math.log2(max(hz, 20.0)), OCTAVES_Q, self.background_db_Q))

    def noise(self, start_s: float, envelope_T: Floats, centre_hz: float, octaves: float, level_db: float) -> None:
        """Noise around `centre_hz`, `octaves` wide (standard deviation), with a power envelope at FRAMES_PER_S."""
        first = round(start_s * FRAMES_PER_S)
        envelope_T = envelope_T[max(0, -first) : max(0, N_FRAMES - first)]
        first = max(0, first)
        distance_Q = (OCTAVES_Q - math.log2(centre_hz)) / octaves
        band_Q = np.exp(-0.5 * distance_Q**2) * 10 ** (0.1 * (level_db + self.level_at(centre_hz)))
        near = np.abs(distance_Q) < 4
        low, high = int(near.argmax()), len(near) - int(near[::-1].argmax())
        self.power_TQ[first : first + len(envelope_T), low:high] += envelope_T[:, None] * band_Q[None, low:high].astype(
            np.float32
        )

    def burst(self, start_s: float, decay_s: float, centre_hz: float, octaves: float, level_db: float) -> None:
        """A knock: noise that starts at once and decays to 1/e in `decay_s`."""
        times_T = np.arange(max(2, round(5 * decay_s * FRAMES_PER_S))) / FRAMES_PER_S
        self.noise(start_s, np.exp(-times_T / decay_s).astype(np.float32), centre_hz, octaves, level_db)

    def tone(
        self,
        start_s: float,
        duration_s: float,
        hz: Sequence[float],
        level_db: float,
        harmonics: Sequence[float] = SINE,
        attack_s: float = 0.01,
        decay_s: float = math.inf,
        tremolo_hz: float = 0.0,
    ) -> None:
        """A periodic tone whose fundamental runs through `hz` at equal steps; `harmonics` are amplitudes of 1 f, 2 f, ...

        A single sine at 0 dB has the power of the background in one bin (43 Hz).
        """
        first = max(0, round(start_s * SAMPLE_RATE))
        n = min(round(duration_s * SAMPLE_RATE), len(self.tones_N) - first)
        if n < 2:
            return
        share = np.linspace(0, 1, n // PITCH_STEP + 1)
        pitch_N = np.repeat(np.interp(share, np.linspace(0, 1, len(hz)), hz), PITCH_STEP)[:n]
        phase_N = np.cumsum(pitch_N) * (PERIOD / SAMPLE_RATE)
        period_P = _period(tuple(harmonics))
        strongest = 1 + int(np.argmax(harmonics))
        amplitude = 2 / FRAME * 10 ** ((level_db + self.level_at(hz[0] * strongest)) / 20) / max(harmonics)
        time_N = np.arange(n, dtype=np.float32) / SAMPLE_RATE
        envelope_N = np.minimum(1, np.minimum(time_N, time_N[::-1]) / attack_s)
        if decay_s < math.inf:
            envelope_N *= np.exp(-time_N / decay_s)
        if tremolo_hz:
            envelope_N *= 0.5 + 0.5 * np.sin(2 * np.pi * tremolo_hz * time_N)
        self.tones_N[first : first + n] += (
            np.float32(amplitude) * envelope_N * period_P[phase_N.astype(np.int64) % PERIOD]
        )

    def voice(self, level_db: float) -> None:
        """Somebody talking through the clip: syllables of five vowels on a wandering pitch, with pauses."""
        rng = self.rng
        pitch_hz = rng.choice((115.0, 205.0, 280.0), p=(0.45, 0.45, 0.1)) * 2 ** rng.normal(0, 0.15)
        n_syllables = int(DURATION_S * rng.uniform(3.5, 6))
        spoken_K = rng.random(n_syllables) < rng.uniform(0.5, 0.95)
        loudness_K = np.where(spoken_K, 10 ** (rng.normal(0, 4, n_syllables) / 20), 0.0)
        pitch_K = pitch_hz * 2 ** np.cumsum(rng.normal(-0.01, 0.07, n_syllables))
        syllable_N = np.arange(len(self.tones_N), dtype=np.float32) * (n_syllables / len(self.tones_N))
        index_N = np.minimum(syllable_N.astype(np.int64), n_syllables - 1)
        within_N = syllable_N - index_N
        phase_N = np.cumsum(pitch_K[index_N] * (1.08 - 0.16 * within_N)) * (PERIOD / SAMPLE_RATE)
        vowels_VP = _vowels(round(pitch_hz / 20) * 20)
        vowel_N = rng.integers(len(vowels_VP), size=n_syllables)[index_N] * PERIOD
        amplitude = 2 / FRAME * 10 ** ((level_db + self.level_at(500)) / 20)
        envelope_N = loudness_K.astype(np.float32)[index_N] * np.minimum(1, 5 * np.minimum(within_N, 1 - within_N))
        self.tones_N += (
            np.float32(amplitude) * envelope_N * vowels_VP.ravel()[vowel_N + phase_N.astype(np.int64) % PERIOD]
        )

    def sound(self) -> Floats:
        """The waveform (N_FRAMES * HOP,): noise by overlapping frames of shaped white noise, and the tones."""
        bank = white()
        offset = int(self.rng.integers(len(bank) - self.power_TQ.size))
        white_TQ = bank[offset : offset + self.power_TQ.size].reshape(self.power_TQ.shape)
        frames = np.fft.irfft(white_TQ * np.sqrt(self.power_TQ)) * WINDOW
        sound_N = self.tones_N.copy()
        even, odd = frames[0::2].ravel(), frames[1::2].ravel()
        sound_N[: len(even)] += even[: len(sound_N)]
        sound_N[HOP : HOP + len(odd)] += odd[: len(sound_N) - HOP]
        return sound_N


@lru_cache(maxsize=1)
def white() -> NDArray[np.complex64]:
    """Complex white noise of unit power, drawn once: clips take stretches of it at random offsets, to save time."""
    parts = np.random.default_rng(BANK_SEED).standard_normal((2, 2**20), dtype=np.float32)
    return (parts[0] + 1j * parts[1]) * np.float32(math.sqrt(0.5))


@lru_cache(maxsize=256)
def _period(harmonics: tuple[float, ...]) -> Floats:
    """One period (P,) of a tone with these amplitudes of 1 f, 2 f, ..., phases spread so that it has no sharp peak."""
    spectrum = np.zeros(PERIOD // 2 + 1, dtype=np.complex64)
    order = np.arange(1, len(harmonics) + 1)
    spectrum[order] = np.asarray(harmonics) * np.exp(1j * 2.4 * order**2)
    return (np.fft.irfft(spectrum) * (PERIOD / 2)).astype(np.float32)


@lru_cache(maxsize=64)
def _vowels(pitch_hz: int) -> Floats:
    """Periods (V, P) of five vowels at a pitch. Source: first three formants of a, e, i, o, u, rounded (Peterson and Barney)."""
    formants_hz = (
        (730, 1090, 2440),
        (530, 1840, 2480),
        (270, 2290, 3010),
        (570, 840, 2410),
        (300, 870, 2240),
    )
    harmonic_hz = pitch_hz * np.arange(1, 4500 // pitch_hz)
    periods = []
    for formants in formants_hz:
        peaks = [np.exp(-0.5 * ((harmonic_hz - f) / 120) ** 2) * 2.0**-k for k, f in enumerate(formants)]
        periods.append(_period(tuple(np.sum(peaks, axis=0) + 0.01)))
    return np.stack(periods)


def _power(level_db: Floats) -> Floats:
    return np.power(10, level_db / 10, dtype=np.float32)
