"""Train one network fully: `python -m trainers.retrain --study NAME --trial 17 | --architecture NETWORK --data FOLDER`.

Full-size input, all training clips, val every epoch, the last epoch's weights (the recipes end at a learning rate of zero, so nothing is
chosen by a score), test scored once at the end, by the weights as they were read back from the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import errno
import json
import math
import signal
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from search_space.comparators import COMPARATORS
from search_space.complexity import count_network
from search_space.errors import UserError, open_console, run_command
from search_space.presets import check_network, preset_name, resolve
from trainers.config import DEFAULT_RECIPE, RECIPES, Recipe, get_recipe
from trainers.datasets import DEFAULT_FOLD, Dataset
from trainers.features import Features
from trainers.inputs import Inputs, data_record, load_inputs
from trainers.loop import Diverged, Stopped, predictions, resolve_device
from trainers.metrics import scores
from trainers.opening import open_data
from trainers.recorded import load_model, train_recorded
from trainers.runs import Predictions, Run, check_seed, held, network_folder, provenance, retrain_folder, trial_folder

_TABLE_ROWS = 20


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is trained on what: a network by name or notation, and its data, opened. `study` and `trial` say where it was found, if in one."""

    network: str
    dataset: Dataset
    features: Features
    study: str | None = None
    trial: int | None = None

    @property
    def preset(self) -> str | None:
        """The name that the network has in the paper's tables, if any."""
        return self.network if self.network in COMPARATORS else preset_name(resolve(self.network))


@dataclasses.dataclass(frozen=True)
class Plan:
    """How it is trained, and how test is scored. Raises `UserError` for values that cannot be."""

    recipe: Recipe
    epochs: int
    seed: int
    device: torch.device
    tta: int
    accumulate: int

    def __post_init__(self) -> None:
        recipe = self.recipe
        if self.epochs < 1:
            raise UserError(f"--epochs is at least 1, not {self.epochs}")
        if self.tta < 0 or (self.tta and not recipe.masks):
            raise UserError(
                f"--tta is a number of draws of the recipe's masks, from 0; got {self.tta}, and recipe {recipe.name!r} has "
                f"{recipe.masks} masks"
            )
        if not 1 <= self.accumulate <= recipe.batch_size // 2:
            raise UserError(
                f"--accumulate is from 1 to {recipe.batch_size // 2}, which leaves two of the batch's {recipe.batch_size} clips in a "
                f"part, not {self.accumulate}"
            )
        check_seed(self.seed)


def retrain(
    runs: Path,
    study: str | None = None,
    trial: int | None = None,
    *,
    architecture: str | None = None,
    data: str | None = None,
    subset: str | None = None,
    fold: int | None = None,
    epochs: int | None = None,
    recipe: str = DEFAULT_RECIPE,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    tta: int | None = None,
    accumulate: int | None = None,
    tensorboard: bool = False,
    console: Console | None = None,
) -> Run:
    """The finished run of a trial's network, or of one that is named with its data, trained on all of train at full size and scored once on test.

    A run that has finished already is handed back as it is. One that is resumed keeps the device ('auto'), draws (0) and parts of a batch (1) that it
    began with, where they are None. Raises `UserError` when the trial or the network does not exist, the data is not what it was, the training cannot
    go on (memory, disk, a loss that is not finite), or an unfinished run lies in the way and `resume` was not asked for.
    """
    console = console or open_console(stderr=True)
    chosen = get_recipe(recipe)
    epochs = chosen.epochs if epochs is None else epochs
    plan = Plan(
        chosen, epochs, seed, resolve_device(device or "auto"), tta or 0, 1 if accumulate is None else accumulate
    )
    if tensorboard:
        _summary_writer()
    if architecture is None:
        candidate = _candidate(runs, study, trial, data, subset, fold)
        assert study is not None  # _candidate has seen to it
        assert trial is not None
        run = Run(retrain_folder(runs, study, trial, recipe, epochs, seed))
        network, digest = candidate["architecture"], candidate["data"]["digest"]

        def open_subject() -> Subject:
            return Subject(network, *_same_data(candidate["data"], console), study, trial)
    else:
        if study is not None or trial is not None:
            raise UserError("name a network by --study and --trial, or by --architecture and --data, not by both")
        check_network(architecture)
        network = architecture if architecture in COMPARATORS else str(resolve(architecture))
        named = Subject(network, *open_data(console, data, subset, DEFAULT_FOLD if fold is None else fold))
        digest = named.features.digest
        run = Run(network_folder(runs, named.dataset.name, named.preset or network, recipe, epochs, seed))

        def open_subject() -> Subject:
            return named

    run.path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{run.path} is being trained by another process; wait for it or end it"
    with held(run.path.parent / f".{run.path.name}.lock", busy):
        began = _began(run, network, digest, plan, resume)
        if began and run.scores:
            if tta and run.scores.get("tta", {}).get("draws") != tta:
                raise UserError(
                    f"{run.path} has finished without --tta {tta}, and test is scored once; choose another --seed"
                )
            if run.status.get("state") != "finished":  # killed between the two
                _write_finished(run)
            console.print(f"{run.path} has finished already; these are its scores")
            return run
        if began:
            plan = _as_begun(run, began, plan, console, device=device, tta=tta, accumulate=accumulate)
        subject = open_subject()
        if began and began["data"]["front_end"] != dataclasses.asdict(subject.features.front_end):
            raise UserError(f"log-mels are made another way than when {run.path} began; choose another --seed")
        try:
            with _ended_by_errors(run), _stop_on_signals() as check:
                _train_and_score(run, subject, plan, console, check, resume=resume, tensorboard=tensorboard)
        except Stopped as stopped:
            console.print(f"stopped; all that was trained is kept. The same command with --resume goes on: {run.path}")
            raise KeyboardInterrupt from stopped
        return run


def _candidate(
    runs: Path, study: str | None, trial: int | None, data: str | None, subset: str | None, fold: int | None
) -> dict[str, Any]:
    """What a study recorded of a trial."""
    if study is None or trial is None:
        raise UserError("name the network: --study NAME --trial N, or --architecture NETWORK --data FOLDER")
    for name, value in (("data", data), ("subset", subset), ("fold", fold)):
        if value is not None:
            raise UserError(f"--{name} goes with --architecture; a trial is trained on its study's data")
    run = Run(trial_folder(runs, study, trial))
    if not (run.path / "run.json").exists():
        raise UserError(
            f"study {study!r} has no trained trial {trial}: {run.path} holds no run. Where another machine trained it and the study keeps "
            f"artifacts, `python -m studies.export {run.path} --to card` fetches it"
        )
    return run.config


def _began(run: Run, network: str, digest: str, plan: Plan, resume: bool) -> dict[str, Any] | None:
    """What the run recorded when it began, None where it has not. Raises `UserError` when it is another one's, or unfinished and not to be resumed."""
    if not (run.path / "run.json").exists():
        return None
    then = run.config
    if (then["architecture"], then["data"]["digest"]) != (network, digest):
        raise UserError(
            f"{run.path} is another study's or other data's, of {then['architecture']}; move it away or choose another --seed"
        )
    if then["recipe"] != (now := dataclasses.asdict(plan.recipe)):
        differ = sorted(key for key in {*then["recipe"], *now} if then["recipe"].get(key) != now.get(key))
        raise UserError(
            f"{run.path} was trained by an earlier recipe {plan.recipe.name!r} ({', '.join(differ)}); move it away or choose another --seed"
        )
    if not run.scores and not resume:
        raise UserError(f"{run.path} exists and has not finished: go on with --resume, or choose another --seed")
    return then


def _as_begun(
    run: Run,
    began: dict[str, Any],
    plan: Plan,
    console: Console,
    *,
    device: str | None,
    tta: int | None,
    accumulate: int | None,
) -> Plan:
    """The plan with what the run began with, where nothing else is asked for. Raises `UserError` for other parts of a batch than those of
    the epochs that are trained."""
    parts, trained = began.get("accumulate", 1), any(run.path.glob("checkpoint*.pt"))
    if trained and accumulate not in (None, parts):
        raise UserError(
            f"{run.path} began with --accumulate {parts}, which its end must have as well; leave the option out, or choose another --seed"
        )
    if device is None:
        plan = dataclasses.replace(plan, device=resolve_device(began["device"]))
    elif str(plan.device) != began["device"]:
        console.print(f"going on on {plan.device}; the run began on {began['device']}, so its last bits may differ")
    return dataclasses.replace(
        plan,
        tta=began.get("tta", 0) if tta is None else tta,
        accumulate=parts if trained or accumulate is None else accumulate,
    )


def _train_and_score(
    run: Run,
    subject: Subject,
    plan: Plan,
    console: Console,
    check: Callable[[], None],
    *,
    resume: bool,
    tensorboard: bool,
) -> None:
    """Fill the run's folder, from where it stands to its end. Only under its lock."""
    network, dataset, features = subject.network, subject.dataset, subject.features
    recipe, epochs, device, tta = plan.recipe, plan.epochs, plan.device, plan.tta
    inputs = load_inputs(dataset, features)
    clips = epochs * len(inputs.splits["train"])
    cost = count_network(network, inputs.size, len(dataset.classes))
    _agree_on_threads(run, device, resume, console)
    run.path.mkdir(exist_ok=True)
    for torn in run.path.glob(
        ".[!j]*"
    ):  # what a kill left of a file that was being written (`job.json` is another process's)
        torn.unlink()
    run.write_json(
        "run.json",
        {
            "kind": "retrain",
            "study": subject.study,
            "trial": subject.trial,
            "architecture": network,
            "preset": subject.preset,
            "params": cost.params,
            "macs": cost.macs,
            "data": data_record(dataset, features),
            "input": list(inputs.size),
            "train_input": list(inputs.size),
            "recipe": dataclasses.asdict(recipe),
            "epochs": epochs,
            "clips": clips,
            "seed": plan.seed,
            "accumulate": plan.accumulate,
            "tta": tta,
            "device": str(device),
            "threads": torch.get_num_threads(),
        },
    )
    _write_provenance(run, resume, console)

    def say(row: dict[str, Any], eta_s: float) -> None:
        console.print(
            f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.3f}  train {row['train_accuracy']:.1%}  "
            f"val {row['val_accuracy']:.1%}  {row['seconds']:.1f} s  about {eta_s / 60:.1f} min left"
        )
        if writer is not None:
            _write_scalars(writer, row)

    console.print(
        f"training {network} on {dataset.name}{' (synthetic data)' if dataset.synthetic else ''}: {epochs} epochs of "
        f"{len(inputs.splits['train'])} clips at {inputs.size[0]}x{inputs.size[1]} on {device}, recipe {recipe.name}",
        soft_wrap=True,
    )
    with ExitStack() as stack:
        writer = None
        if tensorboard:
            kept = run.metrics()[-1:] if resume else []
            writer = _summary_writer()(run.path / "tensorboard", purge_step=kept[0]["clips_seen"] + 1 if kept else None)
            stack.callback(writer.close)
        _, val = train_recorded(
            *(run, network, inputs, recipe, clips, plan.seed, device),
            accumulate=plan.accumulate,
            keep_checkpoints=True,
            resume=resume,
            on_epoch=say,
            check=check,
            say=lambda line: console.print(line, markup=False, soft_wrap=True),
        )
    check()
    model = _read_back(run, inputs, val, device)
    seen = {clip.recorder for clip in inputs.splits["train"].clips}
    del inputs  # train need not be in memory twice
    inputs = load_inputs(dataset, features, splits=("test",))
    check()
    said = predictions(model, inputs, "test", device)
    run.write_predictions("test", said)
    found = {"split": "test", **scores(said, dataset.classes, seen)}
    if tta:
        views = predictions(model, inputs, "test", device, draws=tta, recipe=recipe)
        found["tta"] = {"draws": tta, **scores(views, dataset.classes, seen)}
    run.write_json("scores.json", found)
    _write_finished(run)


@contextmanager
def _ended_by_errors(run: Run) -> Iterator[None]:
    """Writes the end of a run that an error ends, and says what to do where the disk is full or the loss not finite."""
    try:
        yield
    except Diverged as error:
        kept = len(run.metrics())
        raise UserError(
            f"{error}; what {kept} epochs trained is kept in {run.path}. With --resume it would end the same way: choose another --recipe "
            f"or --seed"
        ) from error
    except BaseException as error:
        written, status = (error.filename if isinstance(error, OSError) else None), run.status
        if status.get("state") == "running":
            failed = isinstance(error, Exception) and not isinstance(error, Stopped)
            with contextlib.suppress(OSError):  # on a full disk the old status stays, of a process that is gone
                run.write_status(
                    "failed" if failed else "interrupted",
                    epoch=status.get("epoch", 0),
                    epochs=status.get("epochs", 0),
                    error=f"{type(error).__name__}: {error}" if failed else None,
                )
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
        if isinstance(error, OSError) and (full or Path(str(written)).is_relative_to(run.path)):
            raise UserError(
                f"{run.path} cannot be written ({error.strerror}); what was saved before is whole. Make room, or give yourself the "
                f"rights, and go on with --resume"
            ) from error
        raise


def _read_back(run: Run, inputs: Inputs, val: Predictions, device: torch.device) -> torch.nn.Module:
    """The network with the weights that lie on the disk. Raises `UserError` unless it says of val what the trained one said."""
    normalise, model = load_model(run)
    again = predictions(model.to(device), inputs, "val", device)
    apart = float(np.abs(again.probabilities_NK - val.probabilities_NK).max())
    same_input = all(torch.equal(normalise.get_buffer(name), getattr(inputs, name)) for name in ("mean_F", "std_F"))
    if not (same_input and apart <= 1e-4):
        raise UserError(
            f"{run.weights_path} does not hold what was trained: read back, it scores {again.accuracy:.2%} on val instead of "
            f"{val.accuracy:.2%} (probabilities differ by {apart:.1g}); look at the disk, and go on with --resume"
        )
    return model


def _agree_on_threads(run: Run, device: torch.device, resume: bool, console: Console) -> None:
    """Go on with as many threads as the run began with: sums are then taken in the same order, and results equal to the bit."""
    began = run.config.get("threads") if resume and (run.path / "run.json").exists() else None
    if device.type == "cpu" and began is not None and began != torch.get_num_threads():
        console.print(f"going on with {began} thread(s), as the run began; it has {torch.get_num_threads()} now")
        torch.set_num_threads(began)


def _write_provenance(run: Run, resume: bool, console: Console) -> None:
    """Write down the process that trains; one that goes on keeps what was said of those before."""
    before = run.provenance if resume else {}
    now = provenance()
    if before:
        for what in ("git", "packages", "machine"):
            if before.get(what) != now[what]:
                console.print(
                    f"not what the run began with ({what}): its end may differ in the last bits from one without a break"
                )
        now["resumed_from"] = [*before.pop("resumed_from", []), before]
    run.write_json("provenance.json", now)


def _write_finished(run: Run) -> None:
    epochs = run.config["epochs"]
    run.write_status("finished", epoch=epochs, epochs=epochs, eta_s=0.0)


def _same_data(record: dict[str, Any], console: Console) -> tuple[Dataset, Features]:
    """The data of a recorded run. Raises `UserError` when it, or the front end, is not what it was."""
    dataset, features = open_data(console, record["source"], record["subset"], record["fold"])
    if features.digest != record["digest"]:
        raise UserError(
            f"the data in {record['source']!r} is not what the study was made on (digest {features.digest[:12]}, then "
            f"{record['digest'][:12]}); restore it, or run a new study"
        )
    if dataclasses.asdict(features.front_end) != record["front_end"]:
        raise UserError("log-mels are made another way than when the study was made; run a new study")
    return dataset, features


def _summary_writer() -> Any:
    """TensorBoard's writer class. Raises `UserError` where the package is not there."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("--tensorboard needs the package tensorboard: pip install -e '.[tensorboard]'") from error
    return SummaryWriter


def _write_scalars(writer: Any, row: dict[str, Any]) -> None:
    """One epoch as TensorBoard's scalars, over clips seen."""
    for name in ("loss", "train_accuracy", "val_accuracy", "val_loss", "lr", "seconds"):
        writer.add_scalar(name, row[name], row["clips_seen"])
    writer.flush()


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trainers.retrain", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--study", metavar="NAME", help="the study that found the network")
    add("--trial", type=int, help="the trial whose network is trained")
    add(
        "--architecture",
        metavar="NETWORK",
        help="or any network: a name of the paper's tables, or a notation; with --data",
    )
    add("--data", metavar="FOLDER", help="with --architecture: as for studies.run")
    add("--subset", help="with --architecture: as for studies.run")
    add("--fold", type=int, help="with --architecture: the test fold (default: 5)")
    add("--runs", type=Path, default=Path("runs"), metavar="DIR", help="where studies and runs lie (default: runs)")
    add("--epochs", type=int, help="passes over all training clips (default: the recipe's, 60 or the paper's 200)")
    add("--recipe", default=DEFAULT_RECIPE, help=f"one of {', '.join(RECIPES)} (default: {DEFAULT_RECIPE})")
    add("--seed", type=int, default=0)
    add("--seeds", type=int, default=1, metavar="N", help="train with seeds SEED, SEED + 1, ..., one after the other")
    add("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    add(
        "--accumulate",
        type=int,
        default=1,
        metavar="N",
        help="pass each batch in N parts: less memory, batch norm over a part",
    )
    add("--tta", type=int, metavar="N", help="also score test over N draws of the recipe's masks")
    add("--tensorboard", action="store_true", help="also write TensorBoard scalars into the run's folder")
    add("--resume", action="store_true", help="go on where an unfinished run stands")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = vars(parser.parse_args(argv))
    as_json, seed, seeds = options.pop("json"), options.pop("seed"), options.pop("seeds")
    if seeds < 1:
        raise UserError(f"--seeds is at least 1, not {seeds}")
    check_seed(seed)
    check_seed(seed + seeds - 1)
    console = open_console(stderr=as_json)
    finished = []
    for number in range(seed, seed + seeds):
        if seeds > 1:
            console.print(f"seed {number}, {number - seed + 1} of {seeds}")
        finished.append(retrain(**options, seed=number, console=console))
        if not as_json:
            _print_scores(finished[-1])
    if as_json:
        documents = [
            {"run": str(run.path), **run.config, "metrics": run.metrics(), "test": run.scores} for run in finished
        ]
        json.dump(
            {**documents[0], "runs": documents, "summary": _summary(finished)} if seeds > 1 else documents[0],
            sys.stdout,
        )
        print()
    elif seeds > 1:
        _print_summary(console, _summary(finished))
    return 0


def _print_scores(run: Run) -> None:
    config, test = run.config, run.scores or {}
    data = config["data"]
    title = f"{config['architecture']} on {data['name']}" + (" (synthetic data)" if data["synthetic"] else "")
    console = open_console()
    val = run.metrics()[-1]["val_accuracy"]
    console.print(
        f"\n{title}, test fold scored once ({test['n_clips']} clips): {test['accuracy']:.1%} "
        f"(macro {test['macro_accuracy']:.1%}, log loss {test['log_loss']:.3f}, calibration error {test.get('calibration_error', math.nan):.1%}); "
        f"val {val:.1%}",
        soft_wrap=True,
    )
    if "tta" in test:
        tta = test["tta"]
        console.print(
            f"the same over {tta['draws']} draws of masks: {tta['accuracy']:.1%} (log loss {tta['log_loss']:.3f})"
        )
    for heading, rows in (("scene", test["per_scene"]), ("recorder", test["per_recorder"])):
        table = Table(heading, "test accuracy")
        worst_first = sorted(rows.items(), key=lambda item: item[1])
        for name, accuracy in worst_first[:_TABLE_ROWS]:
            table.add_row(name or "(not named)", f"{accuracy:.1%}")
        console.print(table)
        if len(rows) > _TABLE_ROWS:
            console.print(f"the worst {_TABLE_ROWS} of {len(rows)}; all of them stand in scores.json")
    if test["unseen"] is not None and test["seen"] is not None:
        console.print(f"recorders of the training set {test['seen']:.1%}, others {test['unseen']:.1%}")
    console.print(f"everything is in {run.path}")


def _summary(runs: list[Run]) -> dict[str, Any]:
    """Mean and standard deviation over the seeds of what the runs score: accuracies 0 to 1, log loss in nats; None where none has it."""
    rows = [{**(run.scores or {}), "val_accuracy": run.metrics()[-1]["val_accuracy"]} for run in runs]
    summary: dict[str, Any] = {"seeds": [run.config["seed"] for run in runs]}
    for name, key in (
        ("val", "val_accuracy"),
        ("test", "accuracy"),
        ("test_macro", "macro_accuracy"),
        ("test_seen", "seen"),
        ("test_unseen", "unseen"),
        ("test_log_loss", "log_loss"),
        ("test_calibration_error", "calibration_error"),
    ):
        values = [row[key] for row in rows if row.get(key) is not None]
        summary[f"{name}_mean"] = statistics.fmean(values) if values else None
        summary[f"{name}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return summary


def _print_summary(console: Console, summary: dict[str, Any]) -> None:
    table = Table("", "mean", "standard deviation", title=f"{len(summary['seeds'])} seeds")
    for name in ("val", "test", "test_macro", "test_seen", "test_unseen"):
        mean, std = summary[f"{name}_mean"], summary[f"{name}_std"]
        if mean is not None:
            table.add_row(name.replace("_", ", "), f"{mean:.1%}", "" if std is None else f"{100 * std:.1f} points")
    console.print(table)


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], None]]:
    """A check that raises `Stopped` after a SIGINT or SIGTERM, so that a batch under way is finished first. One that came too late for any check
    is a `KeyboardInterrupt` in the end.

    Outside the main thread no signal can be caught, and the check never raises.
    """
    stop = threading.Event()

    def check() -> None:
        if stop.is_set():
            raise Stopped

    if threading.current_thread() is not threading.main_thread():
        yield check
        return
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if stop.is_set():
        raise KeyboardInterrupt


if __name__ == "__main__":
    run_command(main)
