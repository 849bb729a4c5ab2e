"""Train one network fully: `python -m trainers.retrain --study NAME --trial 17 --epochs 60`.

Full-size input, all training clips, val every epoch, the last epoch's weights, test scored once at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from search_space.architecture import Architecture
from search_space.complexity import count
from search_space.errors import UserError, open_console, run_command
from trainers.config import RECIPES, get_recipe
from trainers.datasets import Dataset
from trainers.features import Features
from trainers.inputs import data_record, load_inputs
from trainers.loop import Stopped, predictions, resolve_device
from trainers.metrics import scores
from trainers.opening import open_data
from trainers.recorded import train_recorded
from trainers.runs import Run, check_seed, held, provenance, retrain_folder, trial_folder

_TABLE_ROWS = 20


def retrain(
    runs: Path,
    study: str,
    trial: int,
    *,
    epochs: int | None = None,
    recipe: str = "long",
    seed: int = 0,
    device: str = "auto",
    resume: bool = False,
    tta: int = 0,
    console: Console | None = None,
) -> Run:
    """The finished run of a trial's network, trained on all of train at full size and scored once on test.

    A run that has finished already is handed back as it is. Raises `UserError` when the trial does not exist, its data is not what it was, or
    an unfinished run lies in the way and `resume` was not asked for.
    """
    console = console or open_console(stderr=True)
    candidate = Run(trial_folder(runs, study, trial))
    if not (candidate.path / "run.json").exists():
        raise UserError(f"study {study!r} has no trained trial {trial}: {candidate.path} holds no run")
    chosen, target = get_recipe(recipe), resolve_device(device)
    epochs = chosen.epochs if epochs is None else epochs
    if epochs < 1:
        raise UserError(f"--epochs is at least 1, not {epochs}")
    if tta < 0 or (tta and not chosen.masks):
        raise UserError(
            f"--tta is a number of draws of the recipe's masks, from 0; got {tta}, and recipe {recipe!r} has {chosen.masks} masks"
        )
    check_seed(seed)
    run = Run(retrain_folder(runs, study, trial, recipe, epochs, seed))
    run.path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{run.path} is being trained by another process; wait for it or end it"
    with held(run.path.parent / f".{run.path.name}.lock", busy):
        if _finished(run, candidate, resume):
            if tta and (run.scores or {}).get("tta", {}).get("draws") != tta:
                raise UserError(
                    f"{run.path} has finished without --tta {tta}, and test is scored once; choose another --seed"
                )
            console.print(f"{run.path} has finished already; these are its scores")
            return run
        dataset, features = _same_data(candidate.config["data"], console)
        inputs = load_inputs(dataset, features)
        architecture = Architecture.parse(candidate.config["architecture"])
        clips = epochs * len(inputs.splits["train"])
        cost = count(architecture, inputs.size, len(dataset.classes))
        run.path.mkdir(exist_ok=True)
        run.write_json(
            "run.json",
            {
                "kind": "retrain",
                "study": study,
                "trial": trial,
                "architecture": str(architecture),
                "preset": candidate.config.get("preset"),
                "params": cost.params,
                "macs": cost.macs,
                "data": data_record(dataset, features),
                "input": list(inputs.size),
                "train_input": list(inputs.size),
                "recipe": dataclasses.asdict(chosen),
                "epochs": epochs,
                "clips": clips,
                "seed": seed,
                "device": str(target),
            },
        )
        run.write_json("provenance.json", provenance())

        def say(row: dict[str, Any], eta_s: float) -> None:
            console.print(
                f"epoch {row['epoch']}/{epochs}  loss {row['loss']:.3f}  train {row['train_accuracy']:.1%}  "
                f"val {row['val_accuracy']:.1%}  {row['seconds']:.1f} s  about {eta_s / 60:.1f} min left"
            )

        console.print(
            f"training {architecture} on {dataset.name}{' (synthetic data)' if dataset.synthetic else ''}: {epochs} epochs of "
            f"{len(inputs.splits['train'])} clips at {inputs.size[0]}x{inputs.size[1]} on {target}"
        )
        try:
            with _stop_on_signals() as check:
                model, _ = train_recorded(
                    *(run, architecture, inputs, chosen, clips, seed, target),
                    keep_checkpoints=True,
                    resume=resume,
                    on_epoch=say,
                    on_batch=check,
                )
        except Stopped as stopped:
            console.print(f"stopped; finished epochs are kept. The same command with --resume goes on: {run.path}")
            raise KeyboardInterrupt from stopped
        seen = {clip.recorder for clip in inputs.splits["train"].clips}
        del inputs  # train need not be in memory twice
        inputs = load_inputs(dataset, features, splits=("test",))
        said = predictions(model, inputs, "test", target)
        run.write_predictions("test", said)
        found = {"split": "test", **scores(said, dataset.classes, seen)}
        if tta:
            views = predictions(model, inputs, "test", target, draws=tta, recipe=chosen)
            found["tta"] = {"draws": tta, **scores(views, dataset.classes, seen)}
        run.write_json("scores.json", found)
        _write_finished(run)
        return run


def _finished(run: Run, candidate: Run, resume: bool) -> bool:
    """Whether the run is there and whole. Raises `UserError` when it is another network's, or unfinished and not to be resumed."""
    if not (run.path / "run.json").exists():
        return False
    then, now = run.config, candidate.config
    if (then["architecture"], then["data"]["digest"]) != (now["architecture"], now["data"]["digest"]):
        raise UserError(
            f"{run.path} is another study's, of {then['architecture']}; move it away or choose another --seed"
        )
    if run.scores:
        if run.status.get("state") != "finished":  # killed between the two
            _write_finished(run)
        return True
    if not resume:
        raise UserError(f"{run.path} exists and has not finished: go on with --resume, or choose another --seed")
    return False


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


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m trainers.retrain", description=__doc__.split("\n")[0])
    parser.add_argument("--study", required=True, metavar="NAME", help="the study that found the network")
    parser.add_argument("--trial", required=True, type=int, help="the trial whose network is trained")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), metavar="DIR", help="where studies lie (default: runs)"
    )
    parser.add_argument(
        "--epochs", type=int, help="passes over all training clips (default: the recipe's, 60 or the paper's 200)"
    )
    parser.add_argument("--recipe", default="long", help=f"one of {', '.join(RECIPES)} (default: long)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")
    parser.add_argument(
        "--tta", type=int, default=0, metavar="N", help="also score test over N draws of the recipe's masks"
    )
    parser.add_argument("--resume", action="store_true", help="go on after the last finished epoch")
    parser.add_argument("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = vars(parser.parse_args(argv))
    as_json = options.pop("json")
    run = retrain(**options, console=open_console(stderr=as_json))
    if as_json:
        json.dump({"run": str(run.path), **run.config, "metrics": run.metrics(), "test": run.scores}, sys.stdout)
        print()
    else:
        _print_scores(run)
    return 0


def _print_scores(run: Run) -> None:
    config, test = run.config, run.scores or {}
    data = config["data"]
    title = f"{config['architecture']} on {data['name']}" + (" (synthetic data)" if data["synthetic"] else "")
    console = open_console()
    val = run.metrics()[-1]["val_accuracy"]
    console.print(
        f"\n{title}, test fold scored once ({test['n_clips']} clips): {test['accuracy']:.1%} "
        f"(macro {test['macro_accuracy']:.1%}, log loss {test['log_loss']:.3f}); val {val:.1%}"
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


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], None]]:
    """A check that raises `Stopped` after a SIGINT or SIGTERM, so that a batch under way is finished first.

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


if __name__ == "__main__":
    run_command(main)
