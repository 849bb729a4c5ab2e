"""A model card of a run, Markdown: what the network is, on which data, what it scored, how it came to be, what it is not.

No path of this machine stands in it: data goes by its folder's name. No torch.
"""

from __future__ import annotations

import contextlib
import math
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

from search_space.complexity import count_network
from search_space.errors import UserError
from search_space.rounding import per_cent
from trainers.metrics import scores
from trainers.runs import Run
from trainers.teaching import words_of

# Source: ESC-50's README; the clips of ESC-10 are by their own licences. TAU's and what it forbids: trainers/archives.json.
_LICENCES = (
    ("esc10", "ESC-10: CC BY 3.0 or CC0, clip by clip; the clips' authors must be named."),
    ("esc50", "ESC-50: Creative Commons Attribution-NonCommercial 3.0 (CC BY-NC)."),
    (
        "tau20",
        "TAU Urban Acoustic Scenes: Tampere University, non-commercial; this is not an open licence, and selling or "
        "distributing results obtained with it commercially is forbidden.",
    ),
)


def card(run: Run, measured: Sequence[str] = ()) -> str:
    """The run's model card, Markdown; with paragraphs of what an export measured, if one did."""
    config, data = run.config, run.config["data"]
    synthetic = " (synthetic data, no recordings)" if data["synthetic"] else ""
    sections = [
        f"# {run.final['architecture']}",
        f"An acoustic scene classifier of {len(data['classes'])} classes, trained on {data['name']}{synthetic}: "
        f"{_kind(config)}.",
        "## Network",
        _network(run),
        "## Data",
        _data(config),
        "## Scores",
        *_scores(run),
        "## Training",
        _training(run),
        "## Latency and exports" if measured else "",
        *measured,
        "## Provenance",
        *_provenance(run),
        "## Limits",
        bullets(_limits(run)),
        "## Licence of the data",
        licence(data["name"], data["synthetic"]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def licence(name: str, synthetic: bool) -> str:
    """What is known of the licence of data of this name, a sentence."""
    if synthetic:
        return "The data is generated; nobody's recordings are in it, and it has no licence of its own."
    known = next((text for start, text in _LICENCES if name.startswith(start) and "-recorders" not in name), None)
    if known is None:
        return "Not recorded: see the files LICENSE or ATTRIBUTION beside the data, or ask who made it."
    return f"{known} What it asks of the data may bind what is made with it too."


def without_paths(command: str) -> str:
    """A command line with every path cut down to its last name: a machine's folders are nobody else's business.

    A storage's URL is replaced altogether.
    """
    return shlex.join(_last_name(word) for word in shlex.split(command))


def _last_name(word: str) -> str:
    start, equals, value = word.partition("=")
    if equals and start.startswith("--"):
        return f"{start}={_last_name(value)}"
    if "://" in word:
        return "URL"
    pure = PureWindowsPath(word) if re.match(r"[A-Za-z]:[\\/]|\\\\", word) else PurePosixPath(word)
    outside = pure.is_absolute() or word.startswith("~") or ".." in pure.parts
    return pure.name or "." if outside else word


def _kind(config: Mapping[str, Any]) -> str:
    kinds = {
        "trial": "a study's candidate, briefly trained",
        "retrain": "fully trained",
        "compare": "one of several networks compared under one budget",
    }
    return kinds.get(str(config.get("kind")), "a single training")


def _pruned(final: Mapping[str, Any]) -> str:
    steps = final["steps"]
    return f"in {len(steps)} step{'s' * (len(steps) != 1)}, the last after {steps[-1]['clips']:,} clips"


def _int8_rows(final: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    if final.get("precision"):
        floats = final["float32"]
        yield (
            "precision",
            f"{final['precision']}: weights of convolutions and linear layers in int8, their inputs in 7 bits",
        )
        yield (
            "bytes in int8",
            f"{final['param_bytes']:,}, biases and what else stays float32 with four bytes each; {final['scale_bytes']:,} of scales besides",
        )
        yield (
            "val in float32",
            f"{per_cent(floats['val_accuracy'])} by the same weights, which decide alike on {per_cent(floats['agreement'])} of the clips",
        )


def _network(run: Run) -> str:
    config, final = run.config, run.final
    classes, full, own = config["data"]["classes"], tuple(config["input"]), tuple(config["train_input"])
    network = final["architecture"]
    cost = count_network(network, full, len(classes))
    rows = [
        ("notation", f"`{network}`"),
        *([("pruned from", f"`{config['architecture']}`, {_pruned(final)}")] if final.get("steps") else []),
        *(
            [("name", f"`{config['preset']}`")]
            if config.get("preset") not in (None, network) and network == config["architecture"]
            else []
        ),
        ("input", f"raw log-mel (B, 1, {own[0]}, {own[1]}): B x 1 x frames x mels; normalised inside the network"),
        ("output", "logits (B, K), K the classes in the order below"),
        ("classes", ", ".join(map(_cell, classes))),
        ("params", f"{cost.params:,}"),
        (
            "bytes of params",
            ", ".join(f"{cost.param_bytes(dtype):,} as {dtype}" for dtype in ("float32", "float16", "int8")),
        ),
        *_int8_rows(final),
        (f"MACs at {full[0]}x{full[1]}", f"{cost.macs:,}"),
    ]
    if own != full:
        at_own = count_network(network, own, len(classes))
        rows.append((f"MACs at {own[0]}x{own[1]}, the size it was trained at", f"{at_own.macs:,}"))
    return _table(("", ""), rows) + (
        "\n\nParams are all trainable numbers. MACs are the multiply-accumulates of convolutions and linear layers for one "
        "clip; normalisation, activations, pooling and biases are not counted (convention `conv+linear`). "
        + ", ".join(f"{name}: {macs:,}" for name, macs in cost.macs_by.items() if name != "conv+linear")
        + f" at {full[0]}x{full[1]} by other conventions."
    )


def _data(config: Mapping[str, Any]) -> str:
    data, full, own = config["data"], tuple(config["input"]), tuple(config["train_input"])
    front_end = ", ".join(f"{name} {value}" for name, value in data["front_end"].items())
    source = data["source"] if data["source"] == "synthetic" else _file_name(data["source"])
    area = f", brought to {own[0]}x{own[1]} by area average" if own != full else ""
    counts = ", ".join(f"{number:,} {split}" for split, number in data["counts"].items())
    rows = [
        ("name", _cell(data["name"])),
        ("synthetic", "yes: generated, not recorded" if data["synthetic"] else "no"),
        ("folder", _cell(source)),
        *([("part", _cell(_file_name(data["subset"])))] if data.get("subset") else []),
        ("clips", f"{counts}; none of the groups that the data names (source recordings, places) is in two splits"),
        ("test fold", f"{data['fold']}, where the data has folds"),
        ("clip length", f"{data['duration_s']:g} s" if data.get("duration_s") else "not recorded"),
        ("front end", front_end),
        ("log-mel", f"{full[0]} frames x {full[1]} mels{area}; ln(mel power + log_floor), Hann window, centred frames"),
        ("digest", f"`{data['digest']}`"),
    ]
    return _table(("", ""), rows)


def _scores(run: Run) -> Iterable[str]:
    classes = tuple(run.config["data"]["classes"])
    val = run.predictions("val")
    rows = []
    if val is not None:
        rows.append(_score_row("val", scores(val, classes, set())))
    test = run.scores
    if test is not None:
        rows.append(_score_row("test, scored once", test))
        if "tta" in test:
            rows.append(_score_row(f"test, over {test['tta']['draws']} draws of masks", test["tta"]))
    if rows:
        headings = ("split", "clips", "accuracy", "macro accuracy", "log loss", "calibration error")
        width = len(headings) - all(row[-1] == "" for row in rows)  # runs of before it was measured lack the last
        yield _table(headings[:width], [row[:width] for row in rows])
        yield "Accuracy is given with the sampling error of that many clips, sqrt(p (1 - p) / n). Log loss is in nats."
    if test is None:
        if run.config.get("kind") == "retrain":
            yield (
                "The test split is not scored yet: this training has not finished. Its command, below, goes on and scores it "
                "when `--resume` is added."
            )
        else:
            yield "The test split was not scored: that is for full trainings, once."
        return
    if test.get("seen") is not None and test.get("unseen") is not None:
        yield (
            f"Test clips of recorders that training had heard: {per_cent(test['seen'])}; of recorders that it had not: "
            f"{per_cent(test['unseen'])}."
        )
    yield _table(("scene", "test accuracy"), [(_cell(name), per_cent(p)) for name, p in test["per_scene"].items()])
    if set(test["per_recorder"]) != {""}:
        by_recorder = [(_cell(name) or "(not named)", per_cent(p)) for name, p in test["per_recorder"].items()]
        yield _table(("recorder", "test accuracy"), by_recorder)


def _score_row(name: str, found: Mapping[str, Any]) -> tuple[str, ...]:
    p, n = found["accuracy"], found["n_clips"]
    accuracy = f"{per_cent(p)} ± {per_cent(math.sqrt(p * (1 - p) / n))}"
    calibration = per_cent(found["calibration_error"]) if "calibration_error" in found else ""
    return name, f"{n:,}", accuracy, per_cent(found["macro_accuracy"]), f"{found['log_loss']:.3f}", calibration


def _training(run: Run) -> str:
    config, rows = run.config, run.metrics()
    recipe = ", ".join(f"{name} {value}" for name, value in config["recipe"].items() if name not in ("name", "epochs"))
    clips = f"{config['clips']:,}" if "clips" in config else "not recorded"
    seconds = sum(row.get("seconds", 0.0) for row in rows)
    device = config.get("device") or run.provenance.get("device") or "not recorded"
    threads = config.get("threads", run.provenance.get("threads"))
    return _table(
        ("", ""),
        [
            ("recipe", f"{config['recipe']['name']}: {recipe}"),
            ("epochs", f"{len(rows)}, {clips} clips seen"),
            ("weights", "those of the last epoch; nothing was chosen by a score"),
            ("seed", f"{config['seed']}"),
            ("device", str(device)),
            *([("threads", str(threads))] if threads is not None else []),
            *([("parts that a batch passes in", str(config["accumulate"]))] if "accumulate" in config else []),
            ("time", f"{seconds:,.0f} s"),
        ],
    )


def _provenance(run: Run) -> Iterable[str]:
    kept = run.provenance
    machine = kept.get("machine", {})
    packages = ", ".join(f"{name} {version}" for name, version in kept.get("packages", {}).items())
    started = str(kept.get("started", "not recorded"))
    times = [("started", started)]
    if before := kept.get("resumed_from"):
        times = [("started", str(before[0].get("started", "not recorded")))]
        count = f"{len(before)} time{'s' * (len(before) > 1)}"
        times.append(("resumed", f"{count}, last {started}; revision, packages and machine are those of that time"))
    yield _table(
        ("", ""),
        [
            (
                "git revision",
                f"`{kept.get('git') or 'not recorded'}`" + " (with changes)" * str(kept.get("git")).endswith("+"),
            ),
            ("packages", f"python {kept.get('python', '?')}, {packages}"),
            ("machine", ", ".join(f"{value}" for value in machine.values()) + " cores" * ("cores" in machine)),
            *times,
        ],
    )
    command = _retrain_command(run) or kept.get("command") or run.config.get("command")
    if command:
        of = {"trial": f"The study that this was trial {run.config.get('trial')} of", "compare": "The comparison"}
        yield f"{of.get(str(run.config.get('kind')), 'The training')}, folders by their names alone:"
        yield f"```\n{without_paths(command)}\n```"


def _retrain_command(run: Run) -> str | None:
    """The command that makes a full retraining anew, None for a run of another kind.

    Of what was trained, not of the process that came last: that one may have gone on with it, or have trained other seeds too.
    """
    config, data = run.config, run.config["data"]
    if config.get("kind") != "retrain":
        return None
    values: dict[str, Any] = {"study": config.get("study"), "trial": config.get("trial")}
    if config.get("study") is None:
        values = {"architecture": config.get("preset") or config["architecture"], "data": data["source"]}
        values |= {"subset": data.get("subset"), "fold": data.get("fold")}
    recipe = config["recipe"]
    values |= {"recipe": recipe["name"], "epochs": config.get("epochs"), "seed": config["seed"]}
    values |= {"device": config.get("device"), "accumulate": config.get("accumulate")}
    values |= {"tta": config.get("tta") or (run.scores or {}).get("tta", {}).get("draws")}
    options = [word for name, value in values.items() if value is not None for word in (f"--{name}", str(value))]
    with contextlib.suppress(UserError):  # of a recipe that does not exist any more the name is all there is to say
        options += words_of(recipe)
    return shlex.join(["python", "-m", "trainers.retrain", *options])


def _limits(run: Run) -> Iterable[str]:
    config, data, test = run.config, run.config["data"], run.scores
    own, full = tuple(config["train_input"]), tuple(config["input"])
    if data["synthetic"]:
        yield "Trained and scored on generated sound: its figures say nothing about real scenes."
    if config.get("kind") == "trial":
        yield (
            "A study's candidate: trained on a short budget to be told apart from others, not to be used. It was compared with "
            "others on val, so the val accuracy of the best of them flatters."
        )
    if config.get("kind") == "compare":
        yield "Trained on a budget that all compared networks share: not the best that this network can do."
    if own != full:
        yield f"It reads {own[0]}x{own[1]}, an area average of the full {full[0]}x{full[1]} log-mel."
    if test is None:
        yield "No test score: how it does on clips that nobody chose by is not known."
    else:
        yield (
            f"One split and one seed: {test['n_clips']:,} test clips. Not comparable with means over several folds or seeds, "
            f"as papers on data with folds print them."
        )
    yield (
        f"It knows {len(data['classes'])} classes and answers with one of them whatever it hears; clips are of "
        f"{data['duration_s']:g} s."
        if data.get("duration_s")
        else f"It knows {len(data['classes'])} classes."
    )
    yield "The front end must be the one above; recordings at a low sample rate or of recorders unlike those of training do worse."


# ----------------------------------------------------------------------------------------------------------- markdown


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def bullets(lines: Iterable[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"* {line}" for line in lines)


def _cell(text: str) -> str:
    """Text that a table's cell holds as it is."""
    return text.replace("|", "\\|")


def _file_name(path: str) -> str:
    return PureWindowsPath(path).name if "\\" in path else PurePosixPath(path).name
