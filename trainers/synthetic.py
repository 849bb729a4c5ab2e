"""The embedded default data: made-up recordings with the vocabulary of TAU Urban Acoustic Scenes 2020 Mobile.

It is a stand-in that makes a search runnable with nothing to download, and is called synthetic wherever it is shown. Ten
scenes, ten cities, places that no two splits share, nine recorders of which s4 to s6 are heard in test only. A scene is
a background spectrum plus what happens in it (voices, motors, rails, steps, birds, chimes, ...); scenes share most of
what happens and differ in how much of it, in its rhythm, its pitch and its course. Places, clips and recorders vary
spectrum and level so widely that the mean spectrum says little. What it leaves out: anything a listener would call real.

Every clip is a function of the seed and its name alone. Nothing here imports torch.

Legend of array suffixes: N samples, T control frames, Q frequency bins, G spectrum knots.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from trainers.audio import Sound
from trainers.canvas import DURATION_S, HOP, N_FRAMES, N_SAMPLES, OCTAVES_Q, SAMPLE_RATE, Canvas, Floats, white
from trainers.clips import DEFAULT_FOLD, SPLITS, Clip, Split
from trainers.datasets import Dataset, DataSpec
from trainers.events import EVENTS, Place, ramp
from trainers.recorders import RECORDERS, compressed, noise_floor, response, wander

# To be raised whenever the same seed gives other sound.
VERSION = 1
SEED = 2020

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

# Assumed, and tuned (`benchmarks.synthetic_data`): how far places and clips stray from their mean, in dB (standard
# deviations), and how far all events stand out of the background, in dB.
PLACE_SD_DB = 6.0
CLIP_SD_DB = 5.0
EVENT_DB = 8.0
EVENT_SD_DB = 4.0

# The whole clip in one transform; the length has small factors and leaves room for the tail of the reverberation.
N_SPECTRUM = 135_000


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

    def load(self, clip: Clip) -> Sound:
        waveform_N = _recorded(_scene_sound(self.seed, clip), clip, self.seed)
        return Sound(waveform_N, SAMPLE_RATE, hashlib.sha256(f"{self.source_key} {clip.filename}".encode()).hexdigest())

    def row_keys(self) -> list[str]:
        return [clip.filename for clip in self.clips]

    @property
    def source_key(self) -> str:
        return f"synthetic version {VERSION} seed {self.seed}"


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
        spectrum_db_G=wander(rng, len(SPECTRUM_HZ), PLACE_SD_DB),
        reverb_s=ramp(rng.random(), low_s, high_s),
        busy=float(2 ** rng.normal(0, 0.5)),
        traits=rng.random(8, dtype=np.float32),
    )


def _scene_sound(seed: int, clip: Clip) -> Floats:
    """What is to be heard at the place during the segment (N_FRAMES * HOP,), the same for every recorder."""
    segment = int(clip.filename.split("-")[3])
    rng = np.random.default_rng((seed, 2, segment))
    scene, place = SCENES[clip.scene], _place(seed, clip.scene, int(clip.location))
    spectrum_db_G = np.add(scene.spectrum_db, place.spectrum_db_G) + wander(rng, len(SPECTRUM_HZ), CLIP_SD_DB)
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


def _recorded(sound_N: Floats, clip: Clip, seed: int) -> Floats:
    """The waveform (N_SAMPLES,) that the clip's recorder makes of what is to be heard: the room's echo and the recorder's
    response in one pass, then compression, level and noise.
    """
    segment, number = int(clip.filename.split("-")[3]), list(RECORDERS).index(clip.recorder)
    rng = np.random.default_rng((seed, 3, segment, number))
    gain_Q = response(clip.recorder, seed, rng, N_SPECTRUM, SAMPLE_RATE)
    place = _place(seed, clip.scene, int(clip.location))
    spectrum_Q = np.fft.rfft(sound_N, N_SPECTRUM) * _echo(seed, int(clip.location), place.reverb_s)
    spectrum_Q *= gain_Q
    heard_N = np.fft.irfft(spectrum_Q, N_SPECTRUM)[: N_FRAMES * HOP].astype(np.float32, copy=False)
    recorded_N = compressed(heard_N, clip.recorder, SAMPLE_RATE, rng)[:N_SAMPLES]
    noise_offset = int(rng.integers(len(white()) - N_SAMPLES))
    recorded_N = recorded_N + noise_floor(clip.recorder) * white().real[noise_offset : noise_offset + N_SAMPLES]
    return np.clip(recorded_N, -1, 1)


@lru_cache(maxsize=16)
def _echo(seed: int, location: int, reverb_s: float) -> NDArray[np.complex64]:
    """The room's response: the direct sound and decaying noise, 60 dB down after `reverb_s`, as strong as half of it."""
    rng = np.random.default_rng((seed, 4, location))
    n = min(round(reverb_s * SAMPLE_RATE), N_SPECTRUM - N_SAMPLES // 2)
    tail = rng.standard_normal(n, dtype=np.float32) * np.exp(np.linspace(0, -6.9, n, dtype=np.float32))
    impulse_N = np.zeros(N_SPECTRUM, dtype=np.float32)
    impulse_N[:n] = tail * (min(1.0, reverb_s) / np.sqrt(np.sum(tail**2)))
    impulse_N[0] += 1
    return np.fft.rfft(impulse_N).astype(np.complex64)
