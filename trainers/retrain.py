"""Train one network fully: `python -m trainers.retrain --study NAME --trial 17 | --architecture NETWORK --data FOLDER`.

Full-size input, all training clips, val every epoch, the last epoch's weights (the recipes end at a learning rate of zero, so nothing is
chosen by a score), test scored once at the end, by the weights as they were read back from the disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import shlex
import signal
import statistics
import sys
import threading
import time
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
from search_space.errors import Parser, UserError, meant, open_console, run_command
from search_space.presets import check_network, preset_name, recorded, resolve
from search_space.rounding import per_cent
from trainers.changes import check_changeable, check_changes
from trainers.clips import record_name
from trainers.config import DEFAULT_RECIPE, RECIPES, Recipe
from trainers.datasets import DEFAULT_FOLD, Dataset
from trainers.features import Features, FrontEnd
from trainers.inputs import Inputs, data_record, load_inputs
from trainers.loop import Diverged, Stopped, precision, predictions, resolve_device, seeded_model
from trainers.memory import is_memory_full
from trainers.metrics import scores
from trainers.opening import LINE_EVERY_S, about, open_data, reopen_data
from trainers.recorded import has_checkpoint, is_int8, load_model, train_recorded
from trainers.runs import (
    Predictions,
    Run,
    check_runs,
    check_seed,
    clear_temporaries,
    held,
    is_study_name,
    network_folder,
    provenance,
    retrain_folder,
    study_folder,
    trial_folder,
)
from trainers.teachers import get_ready, taught
from trainers.teaching import CHANGES, OPTIONS, add_changes, add_options, described, recipe_of, words_of

_TABLE_ROWS = 20
# Assumed: long enough for a first guess of how long the rest takes, short enough that nobody thinks that it hangs.
_FIRST_WORD_S = 10.0


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
        check_changes(recipe)
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
    recipe: str | Recipe = DEFAULT_RECIPE,
    seed: int = 0,
    device: str | None = None,
    resume: bool = False,
    tta: int | None = None,
    accumulate: int | None = None,
    tensorboard: bool = False,
    console: Console | None = None,
    stop: threading.Event | None = None,
) -> Run:
    """The finished run of a trial's network, or of one that is named with its data, trained on all of train at full size and scored once on test.

    The recipe is one that is known by its name, or one with teachers, pruning or int8 that `trainers.teaching.recipe_of` makes. A run that has
    finished already is handed back as it is. One that is resumed keeps the device ('auto'), draws (0) and parts of a batch (1) that it began with,
    where they are None. SIGINT and SIGTERM end it with a `KeyboardInterrupt` after the batch under way, and set `stop`; where they came too late,
    it has finished and is handed back. Raises `UserError` when the trial or the network does not exist, the data is not what it
    was, the training cannot go on (memory, disk, a loss that is not finite), or an unfinished run lies in the way and `resume` was not asked for.
    """
    console = console or open_console(stderr=True)
    chosen = recipe_of({"recipe": recipe}) if isinstance(recipe, str) else recipe
    epochs = chosen.epochs if epochs is None else epochs
    plan = Plan(
        chosen, epochs, seed, resolve_device(device or "auto"), tta or 0, 1 if accumulate is None else accumulate
    )
    if tensorboard:
        _summary_writer()

    def early(dataset: Dataset, front_end: FrontEnd, size: tuple[int, int]) -> None:
        """A network that can not become what it is to is told before log-mels are made."""
        check_changeable(network, chosen, size, len(dataset.classes), epochs * len(dataset.splits.train))

    if architecture is None:
        candidate = _candidate(runs, study, trial, data, subset, fold)
        check_runs(runs)
        assert study is not None  # _candidate has seen to it
        assert trial is not None
        run = Run(retrain_folder(runs, study, trial, chosen.label, epochs, seed))
        network, digest = candidate["architecture"], candidate["data"]["digest"]
        if (learned_from := candidate["recipe"].get("teachers")) and not chosen.teachers:
            said = f"the study's networks learned from {', '.join(learned_from)}, and this training does not"
            with contextlib.suppress(UserError):  # of another version: then these words alone
                said += f"; to have it learn so too: {shlex.join(words_of(candidate['recipe']))}"
            console.print(said, markup=False, soft_wrap=True)

        def open_subject() -> Subject:
            return Subject(network, *reopen_data(console, candidate["data"], early), study, trial)
    else:
        if study is not None or trial is not None:
            raise UserError("name a network by --study and --trial, or by --architecture and --data, not by both")
        check_network(architecture)
        check_runs(runs)
        network = recorded(architecture)
        named = Subject(network, *open_data(console, data, subset, DEFAULT_FOLD if fold is None else fold, early))
        digest = named.features.digest
        run = Run(network_folder(runs, _data_name(named.dataset), named.preset or network, chosen.label, epochs, seed))

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
        if resume and not has_checkpoint(run):
            console.print(f"there is nothing to go on from in {run.path}: this begins with the first epoch")
        subject = open_subject()
        if began:  # in the words it began with, which its checkpoint must meet
            subject = dataclasses.replace(subject, network=began["architecture"])
        if began and began["data"]["front_end"] != dataclasses.asdict(subject.features.front_end):
            raise UserError(f"log-mels are made another way than when {run.path} began; choose another --seed")
        trained_in = _same_precision(run, began, subject, plan.device)
        try:
            with _ended_by_errors(run), _stop_on_signals(stop or threading.Event()) as check:
                _train_and_score(
                    *(run, subject, plan, console, check), trained_in=trained_in, resume=resume, tensorboard=tensorboard
                )
        except Stopped as stopped:
            console.print(f"stopped; all that was trained is kept. The same command with --resume goes on: {run.path}")
            raise KeyboardInterrupt from stopped
        return run


def _data_name(dataset: Dataset) -> str:
    """The data's name for a folder of what was trained on it: with its part and its test fold, where the name does not say them."""
    spec, name = dataset.spec, dataset.name
    part = record_name(Path(spec.subset).stem) if spec.subset else ""
    if part and part != name and not name.endswith(f"-{part}"):
        name = f"{name}-{part}"
    return name if spec.fold == DEFAULT_FOLD else f"{name}-fold{spec.fold}"


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
        if not (folder := study_folder(runs, study)).is_dir():
            known = sorted(path.parent.name for path in runs.glob("*/trials") if is_study_name(path.parent.name))
            raise UserError(
                f"no study {study!r} in {runs} ({folder} is not there); {meant(study, known)}known: {known}"
            )
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
    if (recorded(then["architecture"]), then["data"]["digest"]) != (recorded(network), digest):
        raise UserError(
            f"{run.path} is another study's or other data's, of {then['architecture']}; move it away or choose another --seed"
        )
    if then["recipe"] != (now := plan.recipe.record()):
        differ = sorted(key for key in {*then["recipe"], *now} if then["recipe"].get(key) != now.get(key))
        said = ", ".join(f"{key} {then['recipe'].get(key)!r}, now {now.get(key)!r}" for key in differ)
        raise UserError(
            f"{run.path} was trained by an earlier recipe {plan.recipe.name!r} ({said}); move it away or choose another --seed"
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
    parts, trained = began.get("accumulate", 1), has_checkpoint(run)
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


def _same_precision(run: Run, began: dict[str, Any] | None, subject: Subject, device: torch.device) -> str:
    """What the training's forward pass runs in here. Raises `UserError` where the epochs that are trained ran in another."""
    n_classes, n_mels = len(subject.dataset.classes), subject.features.size[1]
    now = precision(device, seeded_model(subject.network, n_classes, 0, n_mels))
    then = (began or {}).get("precision", now)  # runs of before it was recorded do not say
    if then != now and has_checkpoint(run):
        raise UserError(
            f"{run.path} began in {then}, and {device} of this machine trains it in {now}: its end would be another training's; go on "
            f"where it began, or choose another --seed"
        )
    return now


def _train_and_score(
    run: Run,
    subject: Subject,
    plan: Plan,
    console: Console,
    check: Callable[[], None],
    *,
    trained_in: str,
    resume: bool,
    tensorboard: bool,
) -> None:
    """Fill the run's folder, from where it stands to its end. Only under its lock."""
    network, dataset, features = subject.network, subject.dataset, subject.features
    recipe, epochs, device, tta = plan.recipe, plan.epochs, plan.device, plan.tta
    check_changeable(network, recipe, features.size, len(dataset.classes), epochs * len(dataset.splits.train))
    get_ready(console, recipe, dataset, features, features.size, device)
    inputs = taught(load_inputs(dataset, features), recipe, dataset, features, device)
    clips = epochs * len(inputs.splits["train"])
    cost = count_network(network, inputs.size, len(dataset.classes))
    _agree_on_threads(run, device, resume, console)
    run.path.mkdir(exist_ok=True)
    clear_temporaries(run)
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
            "recipe": recipe.record(),
            "epochs": epochs,
            "clips": clips,
            "seed": plan.seed,
            "accumulate": plan.accumulate,
            "tta": tta,
            "device": str(device),
            "precision": trained_in,
            "threads": torch.get_num_threads(),
        },
    )
    _write_provenance(run, resume, console)

    writer: Any = None
    began_s = spoken_s = time.monotonic()

    def under_way() -> None:
        """Before every batch: in an epoch that takes a while, how far the training is and how long it will take."""
        nonlocal spoken_s
        check()
        now_s = time.monotonic()
        if now_s - spoken_s < (_FIRST_WORD_S if spoken_s == began_s else LINE_EVERY_S):
            return
        status = run.status  # written every few seconds
        if eta_s := status.get("eta_s"):
            spoken_s = now_s
            console.print(f"{status['clips_seen']:,} of {clips:,} clips seen, {about(eta_s)} left")

    def say(row: dict[str, Any], eta_s: float) -> None:
        nonlocal writer, spoken_s
        spoken_s = time.monotonic()
        console.print(
            f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.3f}  train {per_cent(row['train_accuracy'])}  "
            f"val {per_cent(row['val_accuracy'])}  {row['seconds']:.1f} s" + (f"  {about(eta_s)} left" if eta_s else "")
        )
        if tensorboard:
            if writer is None:  # of an earlier process's scalars those from here on are trained again
                writer = _summary_writer()(run.path / "tensorboard", purge_step=row["clips_seen"] if resume else None)
                stack.callback(writer.close)
            _write_scalars(writer, row)

    console.print(
        f"training {network} on {dataset.name}{' (synthetic data)' if dataset.synthetic else ''}: {epochs} epochs of "
        f"{len(inputs.splits['train'])} clips at {inputs.size[0]}x{inputs.size[1]} on {device}, recipe {recipe.name}",
        soft_wrap=True,
    )
    for line in described(recipe):
        console.print(line, markup=False, soft_wrap=True)
    with ExitStack() as stack:
        try:
            _, val = train_recorded(
                *(run, network, inputs, recipe, clips, plan.seed, device),
                accumulate=plan.accumulate,
                keep_checkpoints=True,
                resume=resume,
                on_epoch=say,
                check=under_way,
                say=lambda line: console.print(line, markup=False, soft_wrap=True),
            )
        except Exception as error:
            if is_memory_full(error):
                raise _too_large(run, plan, inputs.size) from error
            raise
    check()
    model = _read_back(run, inputs, val, device, check)
    seen = {clip.recorder for clip in inputs.splits["train"].clips}
    del inputs  # train need not be in memory twice
    inputs = load_inputs(dataset, features, splits=("test",))
    check()
    said = predictions(model, inputs, "test", device, check=check)
    run.write_predictions("test", said)
    found = {"split": "test", **scores(said, dataset.classes, seen)}
    if is_int8(run):
        check()
        _, floats = load_model(run, "float32")
        found["float32"] = scores(
            predictions(floats.to(device), inputs, "test", device, check=check), dataset.classes, seen
        )
    if tta:
        views = predictions(model, inputs, "test", device, draws=tta, recipe=recipe, check=check)
        found["tta"] = {"draws": tta, **scores(views, dataset.classes, seen)}
    run.write_json("scores.json", found)
    _write_finished(run)


@contextmanager
def _ended_by_errors(run: Run) -> Iterator[None]:
    """Writes the end of a run that an error ends into its status, with what is to be done about it."""
    try:
        yield
    except BaseException as error:
        told, status = _told(error, run), run.status
        failed = isinstance(error, Exception) and not isinstance(error, Stopped)
        if (run.path / "run.json").exists() and (failed or status.get("state") == "running"):
            with contextlib.suppress(OSError):  # on a full disk the old status stays, of a process that is gone
                run.write_status(
                    "failed" if failed else "interrupted",
                    epoch=status.get("epoch", 0),
                    epochs=status.get("epochs", 0),
                    error=(str(told) if isinstance(told, UserError) else f"{type(told).__name__}: {told}")
                    if failed
                    else None,
                )
        if told is error:
            raise
        raise told from error


def _told(error: BaseException, run: Run) -> BaseException:
    """The error, or one that says what to do: where the loss is not finite, the memory or the disk full, a checkpoint of other code."""
    if isinstance(error, Diverged):
        return UserError(
            f"{error}; what {len(run.metrics())} epochs trained is kept in {run.path}. With --resume it would end the same way: choose "
            f"another --recipe or --seed"
        )
    if is_memory_full(error):
        return UserError(
            f"the memory is full ({type(error).__name__}); what was trained is kept in {run.path}: free memory and go on with --resume"
        )
    if isinstance(error, RuntimeError) and "loading state_dict" in str(error):
        return UserError("the checkpoint is of another version of this network's code; start again with another --seed")
    if isinstance(error, OSError):
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
        if full or Path(str(error.filename)).is_relative_to(run.path):
            return UserError(
                f"{run.path} cannot be written ({error.strerror}); what was saved before is whole. Make room, or give yourself the "
                f"rights, and go on with --resume"
            )
    return error


def _too_large(run: Run, plan: Plan, size: tuple[int, int]) -> UserError:
    """What to do where a training step does not fit into memory. Other parts of a batch make another training (batch norm is over a
    part), so a run that has trained can not be told to take them."""
    batch, parts = plan.recipe.batch_size, 2 * plan.accumulate
    fits = parts <= batch // 2
    said = f"a batch of {batch // plan.accumulate} clips at {size[0]}x{size[1]} does not fit into the memory of {plan.device}"
    if has_checkpoint(run):
        smaller = f", or begin again with another --seed and --accumulate {parts}" * fits
        return UserError(f"{said}, though it did before; free memory and go on with --resume{smaller}")
    less = f"give --resume --accumulate {parts} (each step over {parts} parts of the batch, one after the other), "
    return UserError(f"{said}; {less * fits}train a smaller network, or free memory")


def _read_back(
    run: Run, inputs: Inputs, val: Predictions, device: torch.device, check: Callable[[], None] = lambda: None
) -> torch.nn.Module:
    """The network with the weights that lie on the disk. Raises `UserError` unless it says of val what the trained one said."""
    normalise, model = load_model(run)
    again = predictions(model.to(device), inputs, "val", device, check=check)
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
    parser = Parser(prog="python -m trainers.retrain", description=(__doc__ or "").split("\n")[0])
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
    add_options(parser)
    add_changes(parser)
    add("--seed", type=int, default=0)
    add("--seeds", type=int, default=1, metavar="N", help="train with seeds SEED, SEED + 1, ..., one after the other")
    add("--device", help="auto, cpu, cuda or cuda:N (default: auto, or where the run began)")
    add(
        "--accumulate",
        type=int,
        metavar="N",
        help="pass each batch in N parts: less memory, batch norm over a part (default: 1, or as the run began)",
    )
    add("--tta", type=int, metavar="N", help="also score test over N draws of the recipe's masks")
    add("--tensorboard", action="store_true", help="also write TensorBoard scalars into the run's folder")
    add("--resume", action="store_true", help="go on where an unfinished run stands")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = vars(parser.parse_args(argv))
    options["recipe"] = recipe_of(options)
    for name in (*OPTIONS, *CHANGES):
        del options[name]
    as_json, seed, seeds = options.pop("json"), options.pop("seed"), options.pop("seeds")
    if seeds < 1:
        raise UserError(f"--seeds is at least 1, not {seeds}")
    check_seed(seed)
    check_seed(seed + seeds - 1)
    console = open_console(stderr=as_json)
    finished: list[Run] = []
    stop = threading.Event()
    for number in range(seed, seed + seeds):
        if stop.is_set():  # asked to end when one had just finished
            raise KeyboardInterrupt
        if seeds > 1:
            console.print(f"seed {number}, {number - seed + 1} of {seeds}")
        finished.append(retrain(**options, seed=number, console=console, stop=stop))
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
    config, test, final = run.config, run.scores or {}, run.final
    data = config["data"]
    title = f"{final['architecture']} on {data['name']}" + (" (synthetic data)" if data["synthetic"] else "")
    console = open_console()
    val = run.metrics()[-1]["val_accuracy"]
    console.print(
        f"\n{title}, test fold scored once ({test['n_clips']} clips): {per_cent(test['accuracy'])} "
        f"(macro {per_cent(test['macro_accuracy'])}, log loss {test['log_loss']:.3f}, calibration error {per_cent(test.get('calibration_error', math.nan))}); "
        f"val {per_cent(val)}",
        soft_wrap=True,
    )
    for line in _became(run):
        console.print(line, soft_wrap=True)
    if "tta" in test:
        tta = test["tta"]
        console.print(
            f"the same over {tta['draws']} draws of masks: {per_cent(tta['accuracy'])} (log loss {tta['log_loss']:.3f})"
        )
    for heading, rows in (("scene", test["per_scene"]), ("recorder", test["per_recorder"])):
        if not any(rows):  # a single row without a name
            continue
        table = Table(heading, "test accuracy")
        worst_first = sorted(rows.items(), key=lambda item: item[1])
        for name, accuracy in worst_first[:_TABLE_ROWS]:
            table.add_row(name or "(not named)", per_cent(accuracy))
        console.print(table)
        if len(rows) > _TABLE_ROWS:
            console.print(f"the worst {_TABLE_ROWS} of {len(rows)}; all of them stand in scores.json")
    if test["unseen"] is not None and test["seen"] is not None:
        console.print(f"recorders of the training set {per_cent(test['seen'])}, others {per_cent(test['unseen'])}")
    console.print(f"everything is in {run.path}")


def _became(run: Run) -> Iterator[str]:
    """What the training made of the network that it began with, and who taught it, a line each; none of a plain training."""
    config, final, test = run.config, run.final, run.scores or {}
    if steps := final.get("steps"):
        yield (
            f"pruned in {len(steps)} step{'s' * (len(steps) > 1)} from {config['architecture']}: {config['params']:,} params became "
            f"{final['params']:,}, {config['macs'] / 1e6:,.1f} M MACs became {final['macs'] / 1e6:,.1f} M"
        )
    if precision := final.get("precision"):
        floats = final["float32"]
        yield (
            f"{precision}: these scores are the int8 network's, {final['param_bytes']:,} bytes of params; the float32 weights that it was made of "
            f"have test {per_cent(test['float32']['accuracy'])}, val {per_cent(floats['val_accuracy'])}, and decide alike on {per_cent(floats['agreement'])} of val"
        )
    if teachers := config["recipe"].get("teachers"):
        yield f"taught by {', '.join(teachers)}"


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
            table.add_row(name.replace("_", ", "), per_cent(mean), "" if std is None else f"{100 * std:.1f} points")
    console.print(table)


@contextmanager
def _stop_on_signals(stop: threading.Event) -> Iterator[Callable[[], None]]:
    """A check that raises `Stopped` after a SIGINT or SIGTERM, which set `stop`, so that a batch under way is finished first.

    Outside the main thread no signal can be caught.
    """

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


if __name__ == "__main__":
    run_command(main)
