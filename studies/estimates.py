"""How long a full retraining will take, from what was measured in the same study: a guess, and what it rests on."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from search_space.complexity import count
from search_space.errors import UserError
from search_space.presets import resolve
from studies import jobs
from studies.jobs import Job
from studies.records import StudyRecords
from trainers.runs import Run

# Assumed: a clip that is only scored costs a third of one that is trained on, a forward pass without the two of the gradients.
_SCORED = 1 / 3


class Estimate(NamedTuple):
    """The `seconds` that jobs take one after the other on the `devices` that were measured, and `basis`: what the guess rests on. `seconds` is NaN
    where nothing is known."""

    seconds: float
    basis: str
    devices: tuple[str, ...] = ()


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
            seconds += estimate(study, [job]).seconds * (1 - found.epoch / max(1, found.epochs))
        else:
            seconds = math.nan
    return Queue(len(at_work) + len(waiting), seconds)


def estimate(study: StudyRecords, wanted: Sequence[Job]) -> Estimate:
    """How long these jobs take one after the other, on the device that was measured.

    Seconds a clip and MAC are taken from the study's finished retrainings where there are some (of the same network, else of all),
    else from the search's own training of each network, which had a smaller input and perhaps fewer cores.
    """
    data, info = study.info["data"], study.info
    finished, measured_on = _finished_rates(study)
    clips = int(data["counts"]["train"]) + _SCORED * int(data["counts"]["val"])
    total, bases, devices = 0.0, set(), set()
    for job in wanted:
        same = finished.get(job.trial)
        everyone = [rate for rates in finished.values() for rate in rates]
        run = study.run(job.trial)
        architecture = resolve(run.config["architecture"])
        macs = count(architecture, tuple(info["input"]), info["n_classes"]).macs
        if same or everyone:
            rate, basis = (
                median(same or everyone),
                f"finished retrainings of {'the same networks' if same else 'this study'}",
            )
            devices |= measured_on
        else:
            small = count(architecture, tuple(info["train_input"]), info["n_classes"]).macs
            rate, basis = _rate(run, small), "the search's own training, scaled to the full input by MACs"
            devices |= _device(run, "provenance.json")
        total += job.epochs * clips * macs * rate
        bases.add(basis)
    return Estimate(total, " and ".join(sorted(bases)), tuple(sorted(devices)))


def _finished_rates(study: StudyRecords) -> tuple[dict[int, list[float]], set[str]]:
    """Seconds a clip and MAC of the finished retrainings, by trial, and the devices that they ran on."""
    rates: dict[int, list[float]] = {}
    devices: set[str] = set()
    for row in jobs.retrained(study).to_dict("records"):
        run = Run(study.path / "retrain" / str(row["run"]))
        rate = _rate(run, float(run.config["macs"]))  # of the network that it began with, as those to come are counted
        if math.isfinite(rate):
            rates.setdefault(int(row["trial"]), []).append(rate)
            devices |= _device(run, "run.json")
    return rates, devices


def _device(run: Run, record: str) -> set[str]:
    """The device that a record of a run names; none where it names none."""
    with contextlib.suppress(OSError, ValueError, AttributeError, RecursionError):
        device = json.loads((run.path / record).read_text("utf-8")).get("device")
        return {str(device)[:20]} if device else set()
    return set()


def _rate(run: Run, macs: float) -> float:
    """Seconds a clip and MAC of a training, NaN where its curve does not say."""
    with contextlib.suppress(UserError, KeyError, TypeError, ValueError, IndexError, ZeroDivisionError):
        rows: list[dict[str, Any]] = [row for row in run.metrics() if "seconds" in row]
        return sum(float(row["seconds"]) for row in rows) / float(rows[-1]["clips_seen"]) / macs
    return math.nan
