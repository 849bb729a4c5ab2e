"""The process that trains a study's candidates, one after the other. It reads train and val; test is never loaded here."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Event
from typing import Any

import torch
from torch import nn

from trainers.config import Recipe, changed
from trainers.datasets import Dataset
from trainers.features import FrontEnd, prepare
from trainers.inputs import MEMORY_SHARE, Inputs, load_inputs
from trainers.loop import Course, Paused, Stopped, n_epochs, predict, predictions, resolve_device, seeded_model, train
from trainers.metrics import scores
from trainers.recorded import drop_checkpoints, train_recorded
from trainers.runs import Run, available_cores, provenance
from trainers.teachers import taught

_ESTIMATE_BATCHES = 2
# Assumed: what one candidate holds of a GPU at most: CUDA's own half GB, its share of the clips, its largest step.
GPU_CANDIDATE_BYTES = 6 * 2**30
# Assumed: more than that many processes on one GPU wait for one another.
MOST_A_GPU = 4


@dataclass(frozen=True)
class WorkerTask:
    """What all trainings have in common: data, size and number of the clips, recipe, threads.

    `score_test` is for finished comparisons alone: each run scores test once, at its end. A search never does. With `pauses` a training
    waits at every rung of the recipe until it is asked to go on. `front_end` makes the log-mels where they are not to be the data's own.
    """

    dataset: Dataset
    digest: str
    train_input: tuple[int, int]
    recipe: Recipe
    budget: int
    threads: int
    score_test: bool = False
    pauses: bool = False
    front_end: FrontEnd | None = None


@dataclass(frozen=True)
class _Worker:
    task: WorkerTask
    inputs: Inputs
    device: torch.device
    stop: Event

    def check(self, _: Course | None = None) -> None:
        """Raises `Stopped` when the study is stopping."""
        if self.stop.is_set():
            raise Stopped


_worker: _Worker | None = None


def shared_devices(name: str) -> list[str]:
    """The devices that workers share: every GPU for 'auto' where there are any, otherwise the one that is named.

    Raises `UserError` where it is not there.
    """
    device = resolve_device(name)
    if name == "auto" and device.type == "cuda":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    return [str(device)]


def default_workers(devices: list[str]) -> int:
    """On GPUs what `gpu_workers` says; on a CPU one a core up to eight, each with its share of the threads.

    Measured: a step of DSSDN-Large at 64 mels gains 1.5 times from a second thread; a study with two workers of one thread
    kept 1.9 of two cores busy.
    """
    if devices[0].startswith("cuda"):
        return gpu_workers([torch.cuda.mem_get_info(torch.device(name))[0] for name in devices], available_cores())
    return min(8, available_cores())


def gpu_workers(free_bytes: list[int], cores: int) -> int:
    """Workers for GPUs with that much free memory each: as many on every one as fit the fullest of them and the cores allow, from 1 to 4.

    One candidate at a short budget's input leaves most of a large GPU idle, and a process that waits for its own Python leaves it to another.
    """
    fit = min(free_bytes) // GPU_CANDIDATE_BYTES
    return len(free_bytes) * max(1, min(MOST_A_GPU, fit, cores // len(free_bytes)))


def worker_pool(
    task: WorkerTask, workers: int, devices: list[str], sharing: int | None = None
) -> tuple[ProcessPoolExecutor, Event]:
    """Processes that are ready to train candidates, shared out over the devices, and the event that stops them between two batches.

    `sharing` is how many workers share this machine's memory, where that is not this pool alone.
    """
    context = multiprocessing.get_context("spawn")
    queue, stop = context.Queue(), context.Event()
    for index in range(workers):
        queue.put(devices[index % len(devices)])
    arguments = (task, sharing or workers, queue, stop, os.getpid())
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=arguments)
    with _interrupts_ignored():  # a new process inherits that, so Ctrl-C in a terminal ends none while it starts
        for _ in range(workers):
            pool.submit(os.getpid)
    return pool, stop


@contextmanager
def stopping(pool: ProcessPoolExecutor, stop: Event) -> Iterator[None]:
    """Waits for the pool at the end; on any error, Ctrl-C included, trainings under way stop between two batches."""
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(task: WorkerTask, workers: int, devices: Queue[str], stop: Event, parent: int) -> None:
    """Set this process up: its share of the cores, its device, its data in memory; it ends when its parent does."""
    global _worker
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    torch.set_num_threads(task.threads)
    dataset = task.dataset
    features = prepare(dataset, task.front_end)
    if features.digest != task.digest:
        raise RuntimeError(f"the data in {dataset.spec.source!r} changed while the study was starting")
    share = MEMORY_SHARE / workers
    inputs = load_inputs(dataset, features, size=task.train_input, train_clips=task.budget, share=share)
    device = torch.device(devices.get())
    _worker = _Worker(task, taught(inputs, task.recipe, dataset, features, device), device, stop)


def train_candidate(architecture: str, path: str, config: dict[str, Any], resume: bool = False) -> dict[str, Any]:
    """Train one candidate and leave its run folder: `val_accuracy` (0 to 1) after the budget, or at the rung where it waits; `clips`, the
    budget or the rung's; `rungs`, the scores at the rungs passed in this call, by clips; and the `seconds` of this call.

    `resume` goes on from the rung where it waits, or begins where none is kept. Raises `Diverged`, `Stopped` and whatever torch raises; the run's
    status says so too.
    """
    worker = _require()
    task = worker.task
    began = time.monotonic()
    run = Run(path)
    run.path.mkdir(parents=True, exist_ok=True)
    run.write_json("run.json", config)
    run.write_json(
        "provenance.json",
        provenance(command=config["command"], threads=task.threads, device=str(worker.device)),
    )
    rungs: dict[int, float] = {}

    def at_rung(clips: int, val_accuracy: float) -> bool:
        rungs[clips] = val_accuracy
        return task.pauses

    def result(clips: int, val_accuracy: float) -> dict[str, Any]:
        seconds = round(time.monotonic() - began, 2)
        return {"val_accuracy": val_accuracy, "clips": clips, "rungs": rungs, "seconds": seconds}

    try:
        model, said = train_recorded(
            *(
                run,
                architecture,
                worker.inputs,
                task.recipe,
                task.budget,
                config["seed"],
                worker.device,
            ),
            like=config.get("like"),
            resume=resume,
            pause=at_rung,
            check=worker.check,
        )
    except Paused as paused:
        return result(paused.clips, paused.val_accuracy)
    if task.score_test:
        _score_test(worker, run, model)
    epochs = n_epochs(task.budget, len(worker.inputs.splits["train"]), task.recipe)
    run.write_status("finished", epoch=epochs, epochs=epochs, eta_s=0.0)
    drop_checkpoints(run)
    return result(task.budget, said.accuracy)


def _score_test(worker: _Worker, run: Run, model: nn.Module) -> None:
    """Score the run's test split, once: train is loaded for its normalisation and let go."""
    task, train_split = worker.task, worker.inputs.splits["train"]
    features = prepare(task.dataset, task.front_end)
    test = load_inputs(task.dataset, features, size=task.train_input, splits=("test",), train_clips=1)
    inputs = dataclasses.replace(worker.inputs, splits={"train": train_split, "test": test.splits["test"]})
    said = predictions(model, inputs, "test", worker.device)
    run.write_predictions("test", said)
    seen = {clip.recorder for clip in train_split.clips}
    run.write_json("scores.json", {"split": "test", **scores(said, task.dataset.classes, seen)})


def measure_candidate(architectures: list[str]) -> float:
    """Seconds that an average one of these would take for the budget and its validation, from a few real batches of each."""
    worker = _require()
    task, total_s = worker.task, 0.0
    batch = task.recipe.batch_size
    val = worker.inputs.splits["val"]
    few = dataclasses.replace(worker.inputs, splits={**worker.inputs.splits, "val": val.first(batch)})
    without_val = dataclasses.replace(few, splits={"train": few.splits["train"]})
    recipe = changed(task.recipe, prune=0.0, precision="float32")  # a few batches leave no room for more
    for text in architectures:
        train(text, without_val, recipe, batch, 0, worker.device, on_batch=worker.check)
        began = time.monotonic()
        clips = batch * _ESTIMATE_BATCHES
        train(text, without_val, recipe, clips, 0, worker.device, on_batch=worker.check)
        trained_s = (time.monotonic() - began) / clips
        model = seeded_model(text, len(few.classes), 0, few.size[1]).to(worker.device)
        began = time.monotonic()
        predict(model, few, "val", worker.device)
        judged_s = (time.monotonic() - began) / min(batch, len(val))
        total_s += trained_s * task.budget + judged_s * len(val)
    return total_s / len(architectures)


def _require() -> _Worker:
    if _worker is None:
        raise RuntimeError("not a process of worker_pool")
    return _worker


def _end_with(parent: int) -> None:
    """A killed study can not end its workers: they look for it themselves."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
