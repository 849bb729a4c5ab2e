"""The embedded default data: made-up recordings with the vocabulary of TAU Urban Acoustic Scenes 2020 Mobile.

It is a stand-in that makes a search runnable with nothing to download, and is called synthetic wherever it is shown. Ten
scenes, ten cities, places that no two splits share, nine recorders of which s4 to s6 are heard in test only. A scene is
a background spectrum plus what happens in it (voices, motors, rails, steps, birds, chimes, ...); scenes share most of
what happens and differ in how much of it, in its rhythm, its pitch and its course. Places, clips and recorders vary
spectrum and level so widely that the mean spectrum says little. What it leaves out: anything a listener would call real.

Every clip is a function of the seed and its name alone. Nothing here imports torch.

Legend of array suffixes: N samples, T control frames, Q frequency bins, P points of one period, G spectrum knots.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trainers.datasets import DEFAULT_FOLD, SPLITS, Clip, Dataset, DataSpec, Split

Floats = NDArray[np.float32]

# To be raised whenever the same seed gives other sound.
VERSION = 1
SEED = 2020

SAMPLE_RATE = 44_100
DURATION_S = 3.0
N_SAMPLES = round(SAMPLE_RATE * DURATION_S)
CLIP_S = DURATION_S + 0.1  # what sounds throughout ends behind the clip's end

# Source: TAU 2020 Mobile's own lists (cities of the development set).
CITIES = (
    "barcelona",
    "helsinki",
    "lisbon",
    "london",
    "lyon",
    "milan",
    "paris",
    "prague",
    "stockholm",
    "vienna",
)
# Source: the shape of TAU 2020 Mobile's fold 1 at about a fifth of its size: recorder a 73 % of train, the others alike;
# val and test flat over recorders; s4 to s6 in test only. Numbers are clips a scene.
CLIPS: dict[Split, dict[str, int]] = {
    "train": {"a": 220, "b": 16, "c": 16, "s1": 16, "s2": 16, "s3": 16},
    "val": dict.fromkeys(("a", "b", "c", "s1", "s2", "s3"), 17),
    "test": dict.fromkeys(("a", "b", "c", "s1", "s2", "s3", "s4", "s5", "s6"), 11),
}
PLACES: dict[Split, int] = {"train": 50, "val": 30, "test": 30}

# ------------------------------------------------------------------------------------------------------------ recorders

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

# --------------------------------------------------------------------------------------------------------------- scenes

SPECTRUM_HZ = (40, 100, 250, 630, 1600, 4000, 10_000, 18_000)


@dataclass(frozen=True)
class Scene:
    """What is to be heard in a scene: its background's mean `spectrum_db` (power density re 630 Hz, at SPECTRUM_HZ) and
    how far it swells, the mean number of `voices`, the range of its places' reverberation, and how often each of its
    `events` happens in a clip (mean of a Poisson distribution).

    Source: the tilt of the spectra follows octave levels of real clips of TAU 2020 Mobile, one to four a scene.
    Assumed: everything else.
    """

    spectrum_db: tuple[int, ...]
    voices: float
    reverb_s: tuple[float, float]
    swell_db: float
    events: dict[str, float]


SCENES: dict[str, Scene] = {
    "airport": Scene(
        spectrum_db=(20, 16, 9, 0, -6, -15, -26, -33),
        voices=1.6,
        reverb_s=(0.7, 1.6),
        swell_db=1.5,
        events={"chime_down": 0.5, "trolley": 0.9, "steps": 0.5, "hum": 0.5, "ticket": 0.3, "music": 0.1},
    ),
    "bus": Scene(
        spectrum_db=(28, 25, 15, 0, -8, -19, -30, -36),
        voices=0.7,
        reverb_s=(0.15, 0.3),
        swell_db=3.0,
        events={"diesel": 1.6, "rattle": 0.9, "door_beep": 0.4, "hiss": 0.5, "blinker": 0.3},
    ),
    "metro": Scene(
        spectrum_db=(31, 25, 14, 0, -7, -18, -29, -35),
        voices=0.6,
        reverb_s=(0.2, 0.4),
        swell_db=3.0,
        events={"inverter": 1.3, "rail_double": 1.0, "squeal": 0.3, "door_run": 0.3, "chime_up": 0.2},
    ),
    "metro_station": Scene(
        spectrum_db=(25, 20, 11, 0, -6, -16, -27, -34),
        voices=1.1,
        reverb_s=(0.8, 1.8),
        swell_db=3.0,
        events={
            "chime_up": 0.5,
            "steps": 0.6,
            "hum": 0.4,
            "train_in": 0.4,
            "squeal": 0.3,
            "door_run": 0.3,
            "escalator": 0.4,
        },
    ),
    "park": Scene(
        spectrum_db=(32, 21, 9, 0, -4, -12, -22, -30),
        voices=0.4,
        reverb_s=(0.05, 0.15),
        swell_db=3.5,
        events={"trill": 1.4, "chirp": 0.6, "gust": 1.0, "gravel": 0.4, "pass_far": 0.3, "bicycle": 0.1},
    ),
    "public_square": Scene(
        spectrum_db=(25, 19, 10, 0, -6, -15, -26, -33),
        voices=1.1,
        reverb_s=(0.2, 0.6),
        swell_db=2.5,
        events={
            "chirp": 0.8,
            "coo": 0.5,
            "steps": 0.5,
            "pass_far": 0.6,
            "gust": 0.4,
            "fountain": 0.3,
            "bell": 0.2,
        },
    ),
    "shopping_mall": Scene(
        spectrum_db=(19, 15, 9, 0, -5, -14, -25, -32),
        voices=1.7,
        reverb_s=(0.6, 1.3),
        swell_db=1.5,
        events={
            "music": 0.8,
            "steps": 0.8,
            "ticket": 0.5,
            "hum": 0.4,
            "escalator": 0.3,
            "trolley": 0.2,
            "chime_down": 0.1,
        },
    ),
    "street_pedestrian": Scene(
        spectrum_db=(24, 18, 10, 0, -5, -14, -25, -32),
        voices=1.3,
        reverb_s=(0.15, 0.5),
        swell_db=2.0,
        events={
            "steps": 1.4,
            "bicycle": 0.4,
            "pass_far": 0.4,
            "suitcase": 0.4,
            "chirp": 0.2,
            "music": 0.2,
            "gust": 0.2,
        },
    ),
    "street_traffic": Scene(
        spectrum_db=(33, 28, 14, 0, -5, -16, -28, -35),
        voices=0.3,
        reverb_s=(0.1, 0.4),
        swell_db=4.0,
        events={
            "pass_near": 1.2,
            "pass_far": 0.5,
            "diesel": 0.5,
            "horn": 0.3,
            "siren": 0.1,
            "blinker": 0.2,
            "steps": 0.2,
        },
    ),
    "tram": Scene(
        spectrum_db=(33, 28, 17, 0, -8, -19, -30, -36),
        voices=0.7,
        reverb_s=(0.2, 0.4),
        swell_db=3.0,
        events={"gear": 1.3, "rail_single": 1.0, "squeal": 0.4, "bell": 0.4, "door_beep": 0.3, "hiss": 0.2},
    ),
}

# Assumed, and tuned (`benchmarks.synthetic_data`): how far places, clips and recorders' copies stray from their mean, in
# dB (standard deviations), and how far all events stand out of the background, in dB.
PLACE_SD_DB = 6.0
CLIP_SD_DB = 5.0
RECORDER_SD_DB = 1.5
RIPPLE_SD_DB = 3.5
LEVEL_SD_DB = 4.0
EVENT_DB = 8.0
EVENT_SD_DB = 4.0

# -------------------------------------------------------------------------------------------------------------- a sound

HOP = 512
FRAME = 2 * HOP
N_FRAMES = math.ceil(N_SAMPLES / HOP) + 1
FRAMES_PER_S = SAMPLE_RATE / HOP
BINS_HZ_Q = np.fft.rfftfreq(FRAME, 1 / SAMPLE_RATE)
OCTAVES_Q = np.log2(np.maximum(BINS_HZ_Q, 20.0))
WINDOW = np.sin(np.pi * (np.arange(FRAME) + 0.5) / FRAME).astype(np.float32)
PERIOD = 2048
PITCH_STEP = 64  # samples (1.5 ms) that share one pitch
# The whole clip in one transform; the length has small factors and leaves room for the tail of the reverberation.
N_SPECTRUM = 135_000
SINE = (1.0,)


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
        bank = _white()
        offset = int(self.rng.integers(len(bank) - self.power_TQ.size))
        white_TQ = bank[offset : offset + self.power_TQ.size].reshape(self.power_TQ.shape)
        frames = np.fft.irfft(white_TQ * np.sqrt(self.power_TQ)) * WINDOW
        sound_N = self.tones_N.copy()
        even, odd = frames[0::2].ravel(), frames[1::2].ravel()
        sound_N[: len(even)] += even[: len(sound_N)]
        sound_N[HOP : HOP + len(odd)] += odd[: len(sound_N) - HOP]
        return sound_N


@lru_cache(maxsize=1)
def _white() -> NDArray[np.complex64]:
    """Complex white noise of unit power, drawn once: clips take stretches of it at random offsets, to save time."""
    parts = np.random.default_rng(VERSION).standard_normal((2, 2**20), dtype=np.float32)
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


# --------------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True)
class Place:
    """What all clips of one place share: its departure from the scene's spectrum (G,), its echo, how busy it is, and
    `traits`, numbers in 0..1 that fix the pitch of its machines and chimes.
    """

    spectrum_db_G: Floats
    reverb_s: float
    busy: float
    traits: Floats


class Event(Protocol):
    """Draws one event onto the canvas, its loudness `level` in dB above what the event is by itself."""

    def __call__(self, canvas: Canvas, place: Place, level: float) -> None: ...


def _start(canvas: Canvas, length_s: float = 0.0) -> float:
    """A moment from which something of `length_s` is heard at least in half."""
    return float(canvas.rng.uniform(-length_s / 2, DURATION_S - length_s / 2))


def _bump(length_s: float, power: float = 1.0) -> Floats:
    """A power envelope (T,) that rises and falls once in `length_s`."""
    n = max(2, round(length_s * FRAMES_PER_S))
    return (np.sin(np.pi * (np.arange(n) + 0.5) / n) ** (2 * power)).astype(np.float32)


def _ramp(share: float, low: float, high: float) -> float:
    """From `low` at 0 to `high` at 1, in equal ratios."""
    return float(low * (high / low) ** share)


def _chime(
    canvas: Canvas, place: Place, level: float, base_hz: tuple[float, float], gap_s: float, falling: bool
) -> None:
    """An announcement's two or three notes; which ones is the place's own."""
    notes = (0, 4) if place.traits[1] < 0.5 else (0, 4, 7)
    start_s = _start(canvas, gap_s * len(notes))
    for i, semitones in enumerate(reversed(notes) if falling else notes):
        hz = _ramp(place.traits[0], *base_hz) * 2 ** (semitones / 12)
        canvas.tone(start_s + i * gap_s, 1.05, (hz,), level + 8, (1, 0.3, 0.15), decay_s=0.35)


def _music(canvas: Canvas, place: Place, level: float) -> None:
    beat_s, root_hz = canvas.rng.uniform(0.42, 0.6), _ramp(canvas.rng.random(), 180, 330)
    for beat in range(int(DURATION_S / beat_s)):
        step = canvas.rng.choice((0, 2, 4, 5, 7, 9))
        for third in (0, 4, 7):
            hz = root_hz * 2 ** ((step + third) / 12)
            canvas.tone(beat * beat_s, beat_s, (hz,), level, (1, 0.6, 0.4, 0.3), decay_s=0.3)


def _wheels(canvas: Canvas, place: Place, level: float, rate_hz: tuple[float, float]) -> None:
    """Small wheels over joints in the floor."""
    length_s, rate = canvas.rng.uniform(0.8, 2.0), canvas.rng.uniform(*rate_hz)
    envelope_T = _bump(length_s)
    envelope_T *= (0.5 + 0.5 * np.sin(2 * np.pi * rate * np.arange(len(envelope_T)) / FRAMES_PER_S)) ** 2
    canvas.noise(_start(canvas, length_s), envelope_T, 900, 0.9, level + 8)


def _walk(canvas: Canvas, place: Place, level: float, centre_hz: tuple[float, float], decay_s: float) -> None:
    period_s, hz = canvas.rng.uniform(0.45, 0.62), _ramp(canvas.rng.random(), *centre_hz)
    first_s = canvas.rng.uniform(0, period_s)
    for i in range(int((DURATION_S - first_s) / period_s) + 1):
        time_s = first_s + i * period_s + canvas.rng.normal(0, 0.01)
        canvas.burst(time_s, decay_s, hz, 0.8, level + 10 - 2 * (i % 2))


def _hum(canvas: Canvas, place: Place, level: float) -> None:
    """Ventilation and transformers: a low multiple of the mains' 50 Hz."""
    canvas.tone(0, CLIP_S, (50.0 * (1 + round(3 * place.traits[2])),), level + 6, (1, 0.6, 0.2, 0.3))


def _ticket(canvas: Canvas, place: Place, level: float) -> None:
    for _ in range(canvas.rng.integers(1, 4)):
        canvas.tone(_start(canvas), 0.09, (_ramp(place.traits[3], 2300, 3600),), level + 12)


def _beeps(canvas: Canvas, place: Place, level: float, n: int, gap_s: float) -> None:
    start_s = _start(canvas, n * gap_s)
    for i in range(n):
        canvas.tone(start_s + i * gap_s, gap_s / 2, (_ramp(place.traits[4], 1100, 2200),), level + 10)


def _blinker(canvas: Canvas, place: Place, level: float) -> None:
    period_s = canvas.rng.uniform(0.33, 0.38)
    for i in range(int(DURATION_S / period_s)):
        canvas.burst(0.1 + i * period_s, 0.012, 3200, 0.5, level + 8 - 4 * (i % 2))


def _diesel(canvas: Canvas, place: Place, level: float) -> None:
    """An engine under changing load: many low harmonics, every third strong (firing order)."""
    start_hz = _ramp(canvas.rng.random(), 24, 48)
    end_hz = start_hz * 2 ** canvas.rng.normal(0, 0.25)
    firing = tuple((1.0 if k % 3 == 0 else 0.35) * k**-0.4 for k in range(1, 25))
    canvas.tone(0, CLIP_S, (start_hz, end_hz), level + 4, firing)


def _whine(canvas: Canvas, place: Place, level: float, ratios: tuple[float, ...], slide: tuple[float, float]) -> None:
    """A traction motor or gear that speeds up or slows down by `slide` octaves in the clip; `ratios` of its tones."""
    low_hz = _ramp(canvas.rng.random(), 160, 560)
    octaves = canvas.rng.choice((-1, 1)) * canvas.rng.uniform(*slide)
    for lower_db, ratio in zip((0, 3, 6), ratios, strict=True):
        canvas.tone(0, CLIP_S, (ratio * low_hz, ratio * low_hz * 2**octaves), level + 6 - lower_db)


def _rail(canvas: Canvas, place: Place, level: float, strokes_s: tuple[float, ...]) -> None:
    """Axles over rail joints, at the vehicle's pace."""
    period_s = canvas.rng.uniform(0.5, 0.95)
    for i in range(-1, int(DURATION_S / period_s) + 1):
        for stroke_s in strokes_s:
            canvas.burst(0.3 + i * period_s + stroke_s, 0.035, 420, 1.0, level + 8)


def _rattle(canvas: Canvas, place: Place, level: float) -> None:
    for _ in range(canvas.rng.integers(4, 14)):
        canvas.burst(_start(canvas), 0.02, _ramp(canvas.rng.random(), 700, 3000), 0.6, level + 7)


def _hiss(canvas: Canvas, place: Place, level: float) -> None:
    canvas.burst(_start(canvas, 0.4), canvas.rng.uniform(0.12, 0.3), 6500, 0.8, level + 14)


def _squeal(canvas: Canvas, place: Place, level: float) -> None:
    length_s, hz = canvas.rng.uniform(0.5, 1.8), _ramp(canvas.rng.random(), 1800, 5200)
    path = hz * 2 ** np.cumsum(canvas.rng.normal(0, 0.02, 24))
    canvas.tone(_start(canvas, length_s), length_s, path.tolist(), level + 14, (1, 0.3), attack_s=0.2)


def _train_in(canvas: Canvas, place: Place, level: float) -> None:
    """A train that arrives: a long swell of rumble, and motors that slow down."""
    length_s, hz = canvas.rng.uniform(3, 6), _ramp(canvas.rng.random(), 160, 560)
    start_s = _start(canvas, length_s)
    canvas.noise(start_s, _bump(length_s), 250, 1.4, level + 10)
    canvas.tone(max(0, start_s), CLIP_S, (hz, hz * 0.6), level + 4)


def _escalator(canvas: Canvas, place: Place, level: float) -> None:
    rate_hz = 4 + 3 * float(place.traits[5])
    for i in range(int(DURATION_S * rate_hz)):
        canvas.burst(i / rate_hz, 0.02, 600, 0.7, level + 4)


def _trill(canvas: Canvas, place: Place, level: float) -> None:
    """A song bird: a quick row of rising calls, all at one pitch."""
    rate_hz, hz = canvas.rng.uniform(8, 15), _ramp(canvas.rng.random(), 2600, 6500)
    n = canvas.rng.integers(5, 14)
    start_s = _start(canvas, n / rate_hz)
    for i in range(n):
        canvas.tone(start_s + i / rate_hz, 0.6 / rate_hz, (hz * 0.92, hz * 1.09), level + 12)


def _chirp(canvas: Canvas, place: Place, level: float) -> None:
    """Sparrows: single falling calls at any pitch."""
    for _ in range(canvas.rng.integers(2, 6)):
        hz = _ramp(canvas.rng.random(), 2600, 6500)
        canvas.tone(_start(canvas), 0.11, (hz * 1.15, hz * 0.85), level + 13)


def _coo(canvas: Canvas, place: Place, level: float) -> None:
    start_s = _start(canvas, 1.2)
    for offset_s in (0, 0.35, 0.6):
        canvas.tone(start_s + offset_s, 0.22, (430, 500, 440), level + 8, (1, 0.2), attack_s=0.05)


def _gust(canvas: Canvas, place: Place, level: float) -> None:
    length_s = canvas.rng.uniform(0.7, 2.5)
    canvas.noise(_start(canvas, length_s), _bump(length_s), 90, 1.3, level + 12)


def _fountain(canvas: Canvas, place: Place, level: float) -> None:
    sparkle_T = canvas.rng.gamma(2.0, 0.5, N_FRAMES).astype(np.float32)
    canvas.noise(0, sparkle_T, 3200, 1.0, level + 6)


def _bicycle(canvas: Canvas, place: Place, level: float) -> None:
    start_s, hz = _start(canvas, 0.6), _ramp(canvas.rng.random(), 2400, 3400)
    for offset_s in (0, 0.16):
        canvas.tone(start_s + offset_s, 0.5, (hz,), level + 14, (1, 0.4), decay_s=0.15, tremolo_hz=28)


def _bell(canvas: Canvas, place: Place, level: float) -> None:
    """Two strokes on a bell: partials that are no harmonics, the higher ones shorter."""
    start_s, hz = _start(canvas, 0.8), _ramp(place.traits[6], 700, 1300)
    for offset_s in (0, 0.3):
        for ratio in (1, 2.76, 5.4):
            canvas.tone(start_s + offset_s, 0.9, (hz * ratio,), level + 10, decay_s=0.25 / ratio**0.5)


def _horn(canvas: Canvas, place: Place, level: float) -> None:
    length_s, hz = canvas.rng.uniform(0.25, 1.0), _ramp(canvas.rng.random(), 330, 480)
    start_s = _start(canvas, length_s)
    for ratio in (1, 1.26):
        canvas.tone(start_s, length_s, (hz * ratio,), level + 12, (1, 0.8, 0.7, 0.5, 0.4))


def _siren(canvas: Canvas, place: Place, level: float) -> None:
    canvas.tone(0, CLIP_S, (600, 1300, 600, 1300, 600), level + 6, (1, 0.5, 0.3))


def _pass_by(canvas: Canvas, place: Place, level: float, above_db: float, seconds: tuple[float, float]) -> None:
    """A car: tyres, body and an engine whose pitch falls as it passes."""
    length_s, hz = canvas.rng.uniform(*seconds), _ramp(canvas.rng.random(), 60, 130)
    start_s, level = _start(canvas, length_s), level + above_db
    canvas.noise(start_s, _bump(length_s, 2), 1000, 1.4, level)
    canvas.noise(start_s, _bump(length_s), 110, 0.8, level)
    falling = (hz * 1.05, hz * 1.04, hz * 0.96, hz * 0.95)
    canvas.tone(max(0, start_s), length_s, falling, level - 4, (1, 0.8, 0.5), attack_s=0.4 * length_s)


EVENTS: dict[str, Event] = {
    "bell": _bell,
    "bicycle": _bicycle,
    "blinker": _blinker,
    "chime_down": partial(_chime, base_hz=(520, 880), gap_s=0.35, falling=True),
    "chime_up": partial(_chime, base_hz=(440, 780), gap_s=0.3, falling=False),
    "chirp": _chirp,
    "coo": _coo,
    "diesel": _diesel,
    "door_beep": partial(_beeps, n=3, gap_s=0.25),
    "door_run": partial(_beeps, n=10, gap_s=0.13),
    "escalator": _escalator,
    "fountain": _fountain,
    "gear": partial(_whine, ratios=(1, 1.42, 2.6), slide=(0.1, 0.5)),
    "gravel": partial(_walk, centre_hz=(5000, 5000), decay_s=0.07),
    "gust": _gust,
    "hiss": _hiss,
    "horn": _horn,
    "hum": _hum,
    "inverter": partial(_whine, ratios=(1, 2, 3), slide=(0.2, 0.9)),
    "music": _music,
    "pass_far": partial(_pass_by, above_db=4, seconds=(2.5, 5)),
    "pass_near": partial(_pass_by, above_db=10, seconds=(1.2, 2.8)),
    "rail_double": partial(_rail, strokes_s=(0, 0.13)),
    "rail_single": partial(_rail, strokes_s=(0,)),
    "rattle": _rattle,
    "siren": _siren,
    "squeal": _squeal,
    "steps": partial(_walk, centre_hz=(900, 2600), decay_s=0.02),
    "suitcase": partial(_wheels, rate_hz=(6, 10)),
    "ticket": _ticket,
    "train_in": _train_in,
    "trill": _trill,
    "trolley": partial(_wheels, rate_hz=(13, 22)),
}


# -------------------------------------------------------------------------------------------------------------- dataset


@dataclass(frozen=True)
class SyntheticDataset(Dataset):
    """The generated stand-in. A clip's waveform is made when it is loaded, always the same one."""

    seed: int

    @classmethod
    def generate(cls, seed: int = SEED) -> SyntheticDataset:
        """The list of clips; no sound is made yet."""
        return cls(
            spec=DataSpec("synthetic", None, DEFAULT_FOLD),
            name="synthetic",
            synthetic=True,
            classes=tuple(sorted(SCENES)),
            sample_rate=SAMPLE_RATE,
            duration_s=DURATION_S,
            clips=_clips(seed),
            notices=("the recordings are synthetic: accuracies on them say nothing about real scenes",),
            seed=seed,
        )

    def load(self, clip: Clip) -> tuple[Floats, int]:
        return _record(_scene_sound(self.seed, clip), clip, self.seed), SAMPLE_RATE

    def signature(self) -> str:
        return f"synthetic version {VERSION} seed {self.seed}"

    def digest(self, clip: Clip) -> str:
        return hashlib.sha256(f"{self.signature()} {clip.filename}".encode()).hexdigest()


def _clips(seed: int) -> tuple[Clip, ...]:
    """All clips, in TAU's naming: scene-city-place-segment-recorder. As there, what b, c and s1 to s3 recorded in train is
    a part of what a recorded, at the same time; in val and test every clip has a segment of its own.
    """
    rng = np.random.default_rng((seed, 0))
    clips: list[Clip] = []
    place = segment = 0
    for scene in SCENES:
        for split in SPLITS:
            places = np.arange(place, place + PLACES[split])
            place += PLACES[split]
            heard: list[tuple[int, int]] = []
            for recorder, n in CLIPS[split].items():
                if split == "train" and recorder != "a":
                    taken = [heard[i] for i in sorted(rng.choice(len(heard), n, replace=False))]
                else:
                    taken = [(int(where), segment + i) for i, where in enumerate(np.sort(rng.choice(places, n)))]
                    segment += n
                    heard += taken
                for where, number in taken:
                    city = CITIES[where % len(CITIES)]
                    clips.append(
                        Clip(
                            filename=f"{scene}-{city}-{where}-{number}-{recorder}",
                            scene=scene,
                            group=f"{city}-{where}",
                            split=split,
                            recorder=recorder,
                            city=city,
                            location=str(where),
                        )
                    )
    return tuple(clips)


@lru_cache(maxsize=1024)
def _place(seed: int, scene: str, location: int) -> Place:
    rng = np.random.default_rng((seed, 1, location))
    low_s, high_s = SCENES[scene].reverb_s
    return Place(
        spectrum_db_G=_wander(rng, len(SPECTRUM_HZ), PLACE_SD_DB),
        reverb_s=_ramp(rng.random(), low_s, high_s),
        busy=float(2 ** rng.normal(0, 0.5)),
        traits=rng.random(8, dtype=np.float32),
    )


def _scene_sound(seed: int, clip: Clip) -> Floats:
    """What is to be heard at the place during the segment (N_FRAMES * HOP,), the same for every recorder."""
    segment = int(clip.filename.split("-")[3])
    rng = np.random.default_rng((seed, 2, segment))
    scene, place = SCENES[clip.scene], _place(seed, clip.scene, int(clip.location))
    spectrum_db_G = np.add(scene.spectrum_db, place.spectrum_db_G) + _wander(rng, len(SPECTRUM_HZ), CLIP_SD_DB)
    background_db_Q = np.interp(OCTAVES_Q, np.log2(SPECTRUM_HZ), spectrum_db_G).astype(np.float32)
    knots_T = np.linspace(0, 8, N_FRAMES)
    background_db_T = np.interp(knots_T, np.arange(9), rng.normal(0, scene.swell_db, 9)).astype(np.float32)

    canvas = Canvas(rng, background_db_Q, background_db_T)
    for _ in range(min(4, rng.poisson(scene.voices * place.busy))):
        canvas.voice(EVENT_DB + rng.normal(8, EVENT_SD_DB))
    for name, rate in scene.events.items():
        for _ in range(min(3, rng.poisson(rate * place.busy))):
            EVENTS[name](canvas, place, EVENT_DB + rng.normal(0, EVENT_SD_DB))
    return canvas.sound()


def _record(sound: Floats, clip: Clip, seed: int) -> Floats:
    """The waveform (N_SAMPLES,) that the clip's recorder makes of what is to be heard: the room's echo and the phone's
    response in one pass, then noise, compression and level.
    """
    recorder = RECORDERS[clip.recorder]
    segment, index = int(clip.filename.split("-")[3]), list(RECORDERS).index(clip.recorder)
    rng = np.random.default_rng((seed, 3, segment, index))
    response_db_G = np.add(recorder.response_db, _wander(rng, len(KNOTS_HZ), RECORDER_SD_DB))
    place = _place(seed, clip.scene, int(clip.location))
    spectrum = np.fft.rfft(sound, N_SPECTRUM) * _echo(seed, int(clip.location), place.reverb_s)
    octaves, knots = _spectrum_octaves(), np.log2(KNOTS_HZ)
    gain_db = np.interp(octaves, knots, response_db_G) + _ripple(seed, index)
    spectrum *= (10 ** (gain_db / 20)).astype(np.float32)[_spectrum_rows()]
    heard = np.fft.irfft(spectrum, N_SPECTRUM)[: N_FRAMES * HOP]
    heard /= np.sqrt(np.mean(heard**2))

    blocks_TN = heard.reshape(N_FRAMES, HOP)
    level_db_T = 10 * np.log10(np.mean(blocks_TN**2, axis=1) + 1e-9)
    smooth = np.exp(-np.arange(24) / 6)
    level_db_T = np.convolve(np.pad(level_db_T, (23, 0), mode="edge"), smooth / smooth.sum(), mode="valid")
    gain_T = 10 ** (((1 / recorder.ratio - 1) * level_db_T + recorder.level_db + rng.normal(0, LEVEL_SD_DB)) / 20)
    ramp = np.linspace(0, 1, HOP, endpoint=False, dtype=np.float32)
    after_T = np.append(gain_T[1:], gain_T[-1])
    blocks_TN *= gain_T.astype(np.float32)[:, None] * (1 - ramp) + after_T.astype(np.float32)[:, None] * ramp
    floor = np.float32(10 ** (recorder.floor_db / 20))
    noise_offset = int(rng.integers(2**20 - N_SAMPLES))
    recorded = heard[:N_SAMPLES] + floor * _white().real[noise_offset : noise_offset + N_SAMPLES]
    return np.clip(recorded, -1, 1)


@lru_cache(maxsize=16)
def _echo(seed: int, location: int, reverb_s: float) -> NDArray[np.complex64]:
    """The room's response: the direct sound and decaying noise, 60 dB down after `reverb_s`, as strong as half of it."""
    rng = np.random.default_rng((seed, 4, location))
    n = min(round(reverb_s * SAMPLE_RATE), N_SPECTRUM - N_SAMPLES // 2)
    tail = rng.standard_normal(n, dtype=np.float32) * np.exp(np.linspace(0, -6.9, n, dtype=np.float32))
    response = np.zeros(N_SPECTRUM, dtype=np.float32)
    response[:n] = tail * (min(1.0, reverb_s) / np.sqrt(np.sum(tail**2)))
    response[0] += 1
    return np.fft.rfft(response).astype(np.complex64)


@lru_cache(maxsize=16)
def _ripple(seed: int, recorder: int) -> Floats:
    """What the coarse table of a recorder's response leaves out: its own fine ripple; none for the reference a."""
    rng = np.random.default_rng((seed, 5, recorder))
    fine = np.linspace(0, 1, 80)
    ripple_db = np.interp(np.linspace(0, 1, 1024), fine, _wander(rng, len(fine), RIPPLE_SD_DB))
    return (ripple_db * (recorder > 0)).astype(np.float32)


@lru_cache(maxsize=1)
def _spectrum_octaves() -> Floats:
    """The frequencies of the recorders' responses on a fine grid, in octaves."""
    return np.linspace(np.log2(20), np.log2(SAMPLE_RATE / 2), 1024, dtype=np.float32)


@lru_cache(maxsize=1)
def _spectrum_rows() -> NDArray[np.int64]:
    """For every bin of the whole clip's spectrum, the row of the fine grid: a table look-up instead of interpolation."""
    octaves = np.log2(np.maximum(np.fft.rfftfreq(N_SPECTRUM, 1 / SAMPLE_RATE), 20))
    return np.searchsorted(_spectrum_octaves(), octaves).clip(0, 1023)


def _wander(rng: np.random.Generator, n: int, sd_db: float) -> Floats:
    """A random curve (n,) in dB: neighbouring knots alike, of this standard deviation."""
    own = rng.normal(0, 1, n + 2)
    return (sd_db * (own[:-2] + own[1:-1] + own[2:]) / math.sqrt(3)).astype(np.float32)


def _power(level_db: Floats) -> Floats:
    return np.power(10, level_db / 10, dtype=np.float32)
