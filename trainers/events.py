"""What happens in made-up scenes, drawn onto a canvas: announcements, steps, motors, rails, birds, bells, cars.

Each event is audible by `level` dB above what it is by itself relative to the background, and has its own rhythm, pitch
and course; what is the place's own (which chime, which hum) comes from the place's traits. Assumed, all of it.

Legend of array suffixes: T control frames, G spectrum knots.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np

from trainers.canvas import CLIP_S, DURATION_S, FRAMES_PER_S, N_FRAMES, Canvas, Floats


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


def ramp(share: float, low: float, high: float) -> float:
    """From `low` at 0 to `high` at 1, in equal ratios."""
    return float(low * (high / low) ** share)


def _chime(
    canvas: Canvas, place: Place, level: float, base_hz: tuple[float, float], gap_s: float, falling: bool
) -> None:
    """An announcement's two or three notes; which ones is the place's own."""
    notes = (0, 4) if place.traits[1] < 0.5 else (0, 4, 7)
    start_s = _start(canvas, gap_s * len(notes))
    for i, semitones in enumerate(reversed(notes) if falling else notes):
        hz = ramp(place.traits[0], *base_hz) * 2 ** (semitones / 12)
        canvas.tone(start_s + i * gap_s, 1.05, (hz,), level + 8, (1, 0.3, 0.15), decay_s=0.35)


def _music(canvas: Canvas, place: Place, level: float) -> None:
    beat_s, root_hz = canvas.rng.uniform(0.42, 0.6), ramp(canvas.rng.random(), 180, 330)
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
    period_s, hz = canvas.rng.uniform(0.45, 0.62), ramp(canvas.rng.random(), *centre_hz)
    first_s = canvas.rng.uniform(0, period_s)
    for i in range(int((DURATION_S - first_s) / period_s) + 1):
        time_s = first_s + i * period_s + canvas.rng.normal(0, 0.01)
        canvas.burst(time_s, decay_s, hz, 0.8, level + 10 - 2 * (i % 2))


def _hum(canvas: Canvas, place: Place, level: float) -> None:
    """Ventilation and transformers: a low multiple of the mains' 50 Hz."""
    canvas.tone(0, CLIP_S, (50.0 * (1 + round(3 * place.traits[2])),), level + 6, (1, 0.6, 0.2, 0.3))


def _ticket(canvas: Canvas, place: Place, level: float) -> None:
    for _ in range(canvas.rng.integers(1, 4)):
        canvas.tone(_start(canvas), 0.09, (ramp(place.traits[3], 2300, 3600),), level + 12)


def _beeps(canvas: Canvas, place: Place, level: float, n: int, gap_s: float) -> None:
    start_s = _start(canvas, n * gap_s)
    for i in range(n):
        canvas.tone(start_s + i * gap_s, gap_s / 2, (ramp(place.traits[4], 1100, 2200),), level + 10)


def _blinker(canvas: Canvas, place: Place, level: float) -> None:
    period_s = canvas.rng.uniform(0.33, 0.38)
    for i in range(int(DURATION_S / period_s)):
        canvas.burst(0.1 + i * period_s, 0.012, 3200, 0.5, level + 8 - 4 * (i % 2))


def _diesel(canvas: Canvas, place: Place, level: float) -> None:
    """An engine under changing load: many low harmonics, every third strong (firing order)."""
    start_hz = ramp(canvas.rng.random(), 24, 48)
    end_hz = start_hz * 2 ** canvas.rng.normal(0, 0.25)
    firing = tuple((1.0 if k % 3 == 0 else 0.35) * k**-0.4 for k in range(1, 25))
    canvas.tone(0, CLIP_S, (start_hz, end_hz), level + 4, firing)


def _whine(canvas: Canvas, place: Place, level: float, ratios: tuple[float, ...], slide: tuple[float, float]) -> None:
    """A traction motor or gear that speeds up or slows down by `slide` octaves in the clip; `ratios` of its tones."""
    low_hz = ramp(canvas.rng.random(), 160, 560)
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
        canvas.burst(_start(canvas), 0.02, ramp(canvas.rng.random(), 700, 3000), 0.6, level + 7)


def _hiss(canvas: Canvas, place: Place, level: float) -> None:
    canvas.burst(_start(canvas, 0.4), canvas.rng.uniform(0.12, 0.3), 6500, 0.8, level + 14)


def _squeal(canvas: Canvas, place: Place, level: float) -> None:
    length_s, hz = canvas.rng.uniform(0.5, 1.8), ramp(canvas.rng.random(), 1800, 5200)
    path = hz * 2 ** np.cumsum(canvas.rng.normal(0, 0.02, 24))
    canvas.tone(_start(canvas, length_s), length_s, path.tolist(), level + 14, (1, 0.3), attack_s=0.2)


def _train_in(canvas: Canvas, place: Place, level: float) -> None:
    """A train that arrives: a long swell of rumble, and motors that slow down."""
    length_s, hz = canvas.rng.uniform(3, 6), ramp(canvas.rng.random(), 160, 560)
    start_s = _start(canvas, length_s)
    canvas.noise(start_s, _bump(length_s), 250, 1.4, level + 10)
    canvas.tone(max(0, start_s), CLIP_S, (hz, hz * 0.6), level + 4)


def _escalator(canvas: Canvas, place: Place, level: float) -> None:
    rate_hz = 4 + 3 * float(place.traits[5])
    for i in range(int(DURATION_S * rate_hz)):
        canvas.burst(i / rate_hz, 0.02, 600, 0.7, level + 4)


def _trill(canvas: Canvas, place: Place, level: float) -> None:
    """A song bird: a quick row of rising calls, all at one pitch."""
    rate_hz, hz = canvas.rng.uniform(8, 15), ramp(canvas.rng.random(), 2600, 6500)
    n = canvas.rng.integers(5, 14)
    start_s = _start(canvas, n / rate_hz)
    for i in range(n):
        canvas.tone(start_s + i / rate_hz, 0.6 / rate_hz, (hz * 0.92, hz * 1.09), level + 12)


def _chirp(canvas: Canvas, place: Place, level: float) -> None:
    """Sparrows: single falling calls at any pitch."""
    for _ in range(canvas.rng.integers(2, 6)):
        hz = ramp(canvas.rng.random(), 2600, 6500)
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
    start_s, hz = _start(canvas, 0.6), ramp(canvas.rng.random(), 2400, 3400)
    for offset_s in (0, 0.16):
        canvas.tone(start_s + offset_s, 0.5, (hz,), level + 14, (1, 0.4), decay_s=0.15, tremolo_hz=28)


def _bell(canvas: Canvas, place: Place, level: float) -> None:
    """Two strokes on a bell: partials that are no harmonics, the higher ones shorter."""
    start_s, hz = _start(canvas, 0.8), ramp(place.traits[6], 700, 1300)
    for offset_s in (0, 0.3):
        for ratio in (1, 2.76, 5.4):
            canvas.tone(start_s + offset_s, 0.9, (hz * ratio,), level + 10, decay_s=0.25 / ratio**0.5)


def _horn(canvas: Canvas, place: Place, level: float) -> None:
    length_s, hz = canvas.rng.uniform(0.25, 1.0), ramp(canvas.rng.random(), 330, 480)
    start_s = _start(canvas, length_s)
    for ratio in (1, 1.26):
        canvas.tone(start_s, length_s, (hz * ratio,), level + 12, (1, 0.8, 0.7, 0.5, 0.4))


def _siren(canvas: Canvas, place: Place, level: float) -> None:
    canvas.tone(0, CLIP_S, (600, 1300, 600, 1300, 600), level + 6, (1, 0.5, 0.3))


def _pass_by(canvas: Canvas, place: Place, level: float, above_db: float, seconds: tuple[float, float]) -> None:
    """A car: tyres, body and an engine whose pitch falls as it passes."""
    length_s, hz = canvas.rng.uniform(*seconds), ramp(canvas.rng.random(), 60, 130)
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
