"""How long a full retraining will take, from what was measured in the same study: a guess, and what it rests on."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import nnls  # type: ignore[import-untyped]

from search_space.complexity import count
from search_space.errors import UserError
from search_space.presets import resolve
from studies import jobs
from studies.jobs import Job
from studies.records import StudyRecords
from trainers.runs import Run, trial_folder

# Assumed: a clip that is only scored costs a third of one that is trained on, a forward pass without the two of the gradients.
_SCORED = 1 / 3
_LEAST = 3  # networks of different MACs that a line with two numbers needs
_MOST = 64  # Assumed: trials enough for two numbers; reading more would make the page wait


class Estimate(NamedTuple):
    """The `seconds` that jobs take one after the other on the `devices` that were measured, and `basis`: what the guess rests on. `seconds` is NaN
    where nothing is known."""

    seconds: float
    basis: str
    devices: tuple[str, ...] = ()


class Point(NamedTuple):
    """A training's MACs, and the seconds that it took for a clip."""

    macs: float
    seconds: float


class Queue(NamedTuple):
    """The `number` of jobs whose turn comes before a new one's, and the `seconds` that they still take: NaN where one of them can not be guessed."""

    number: int
    seconds: float


def queue(study: StudyRecords) -> Queue:
    """What is at work or waits in the study's runs folder. How long another study's job takes is only known once it is at work."""
    at_work, waiting = jobs.at_work(study.path.parent), jobs.queued(study.path.parent)
    seconds = 0.0
    for job in (*at_work, *waiting):
        found = jobs.state(job.run)
        if found.active and found.eta_s is not None:
            seconds += found.eta_s
        elif job.study == study.name:
            seconds += estimate(study, [job]).seconds * (1 - found.done)
        else:
            seconds = math.nan
    return Queue(len(at_work) + len(waiting), seconds)


def estimate(study: StudyRecords, wanted: Sequence[Job]) -> Estimate:
    """How long these jobs take one after the other, on the device that was measured.

    Seconds a clip are those of finished retrainings of the same network; else lie on a straight line over MACs (`line`): through the study's
    retrainings, where these are of three networks; else through the search's own trainings, whose input was smaller (what a clip costs beside
    its MACs does not grow with it), as much higher or lower as the retrainings that there are lie, for they had other cores or another device.
    """
    data, info = study.info["data"], study.info
    finished, measured_on = _finished(study)
    everyone = [point for points in finished.values() for point in points]
    clips = int(data["counts"]["train"]) + _SCORED * int(data["counts"]["val"])
    total, bases, devices = 0.0, set(), set()
    lines: dict[str, tuple[float, float]] = {}
    for job in wanted:
        same = finished.get(job.trial)
        run = study.run(job.trial)
        architecture = resolve(run.config["architecture"])
        macs = count(architecture, tuple(info["input"]), info["n_classes"]).macs
        if same:
            seconds = median(point.seconds for point in same)
            basis = "finished retrainings of the same networks"
            devices |= measured_on
        elif everyone:
            lines["retrained"] = lines.get("retrained") or _retrained_line(study, everyone)
            seconds = _at(lines["retrained"], macs)
            basis = "finished retrainings of this study"
            devices |= measured_on
        else:
            lines["searched"] = lines.get("searched") or line(_searched(study))
            seconds = _at(lines["searched"], macs)
            basis = "the search's own trainings, carried on to the MACs at the full input"
            devices |= _device(run, "provenance.json")
        total += job.epochs * clips * seconds
        bases.add(basis)
    return Estimate(total, " and ".join(sorted(bases)), tuple(sorted(devices)))


def _at(line: tuple[float, float], macs: float) -> float:
    return line[0] + line[1] * macs


def _retrained_line(study: StudyRecords, points: Sequence[Point]) -> tuple[float, float]:
    """The line through retrainings, or the search's own, moved to them, where they are of too few networks to tell one."""
    if len({point.macs for point in points}) >= _LEAST:
        return line(points)
    searched = line(_searched(study))
    times = median(point.seconds / _at(searched, point.macs) for point in points)
    return (times * searched[0], times * searched[1]) if math.isfinite(times) else line(points)


def line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Seconds a clip and seconds a clip and MAC, neither below zero, of the line nearest to these (MACs, seconds a clip), by relative errors.

    NaN without points. Points with fewer than three MACs say nothing of what a clip costs beside them: their line goes through zero.
    """
    if not points:
        return math.nan, math.nan
    macs_N, seconds_N = np.array(points, dtype=float).T
    if len(set(macs_N)) < _LEAST:
        return 0.0, float(np.median(seconds_N / macs_N))
    scale = macs_N.max()  # so that both columns are of one size
    x_N2 = np.column_stack([np.ones_like(macs_N), macs_N / scale]) / seconds_N[:, None]
    (fixed, by_macs), _ = nnls(x_N2, np.ones_like(macs_N))
    return float(fixed), float(by_macs / scale)


def _searched(study: StudyRecords) -> list[Point]:
    """MACs at the input that the search trained with, and seconds a clip, of some of the study's complete trials, from its smallest to its largest."""
    trials, info = study.trials(), study.info
    complete = trials[(trials["state"] == "complete") & (trials["seconds"].astype(float) > 0) & (trials["clips"] > 0)]
    complete = complete.sort_values("macs")
    if len(complete) > _MOST:
        complete = complete.iloc[np.linspace(0, len(complete) - 1, _MOST).round().astype(int)]
    points = []
    for trial, text, seconds, clips in complete[["trial", "architecture", "seconds", "clips"]].itertuples(index=False):
        macs = count(resolve(text), tuple(info["train_input"]), info["n_classes"]).macs
        measured = _seconds_a_clip(Run(trial_folder(study.path.parent, study.name, int(trial))))
        points.append(Point(float(macs), measured if measured > 0 else float(seconds) / float(clips)))
    return points


def _finished(study: StudyRecords) -> tuple[dict[int, list[Point]], set[str]]:
    """What finished retrainings took, by trial, and the devices that they ran on."""
    points: dict[int, list[Point]] = {}
    devices: set[str] = set()
    for row in jobs.retrained(study).to_dict("records"):
        run = Run(study.path / "retrain" / str(row["run"]))
        # Of the network that it began with, as those to come are counted.
        point = Point(float(run.config["macs"]), _seconds_a_clip(run))
        if point.macs > 0 and math.isfinite(point.seconds):
            points.setdefault(int(row["trial"]), []).append(point)
            devices |= _device(run, "run.json")
    return points, devices


def _device(run: Run, record: str) -> set[str]:
    """The device that a record of a run names; none where it names none."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        device = json.loads((run.path / record).read_text("utf-8")).get("device")
        return {str(device)[:20]} if device else set()
    return set()


def _seconds_a_clip(run: Run) -> float:
    """Seconds that a training took for a clip, NaN where its curve does not say; without its first epoch, in which much is done once, where there are more."""
    with contextlib.suppress(UserError, OSError, KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        rows: list[dict[str, Any]] = [row for row in run.metrics() if "seconds" in row]
        first = rows[0] if len(rows) > 1 else {"seconds": 0.0, "clips_seen": 0}
        seconds = sum(float(row["seconds"]) for row in rows) - float(first["seconds"])
        return seconds / (float(rows[-1]["clips_seen"]) - float(first["clips_seen"]))
    return math.nan
