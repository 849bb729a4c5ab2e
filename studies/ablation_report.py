"""What an ablation says: its rows against the noise, in a document, a table, CSV, Markdown, LaTeX and a forest plot."""

from __future__ import annotations

import hashlib
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

from search_space.errors import UserError
from search_space.presets import NETWORKS, preset_name
from search_space.tables import DSSDN
from studies import contrasts
from studies.ablation import LONGEST_NOTATION, TABLE_2, TABLE_2_BASE, Ablation, Job, counted, is_finished, name_of
from studies.charts import forest_figure, write_html
from studies.code import code_digest
from studies.grid import said
from studies.variants import Grid
from trainers.inputs import data_record
from trainers.runs import now, write_atomic

FILES = {"csv": "ablation.csv", "markdown": "ablation.md", "latex": "ablation.tex", "html": "forest.html"}
"""A report's files by form; `ablation.json` lies beside them."""


def _arm(ablation: Ablation, jobs: list[Job], tested: bool) -> contrasts.Arm:
    variant, runs = jobs[0].variant, [job.run for job in jobs]
    setting, fold, finals = variant.setting, ablation.folds[0], [run.final for run in runs]
    facts = {
        "also": list(variant.also),
        "network": str(setting.network),
        "preset": preset_name(setting.network),
        "recipe": setting.recipe.name,
        "front_end": dict(setting.front_end),
        "input": list(ablation.input(variant, fold)),
        "train_input": list(ablation.train_input(variant, fold)),
        "runs": [run.path.name for run in runs],
        "finals": [final["architecture"] for final in finals],
        "param_bytes": round(statistics.fmean(final.get("param_bytes") or 4 * final["params"] for final in finals)),
    }
    return contrasts.Arm(
        variant=variant.label if variant.changes else name_of(setting.network),
        changes=variant.changes,
        facts=facts,
        params=round(
            statistics.fmean(final["params"] for final in finals)
        ),  # where networks shrink, no two need be alike
        macs=round(statistics.fmean(final["macs"] for final in finals)),
        val=[run.metrics()[-1]["val_accuracy"] for run in runs],
        test=[run.scores or {} for run in runs] if tested else [],
    )


def _overlap(ablation: Ablation) -> float:
    """Val clips over training clips where there are several folds, whose training sets share clips; 0 for one fold."""
    if len(ablation.folds) == 1:
        return 0.0
    splits = [fold.dataset.splits for fold in ablation.folds]
    return statistics.fmean(len(of.val) / min(len(of.train), ablation.budget) for of in splits)


def build_report(
    ablation: Ablation,
    grid: Grid | None,
    preset: str | None,
    skipped: list[str],
    others: int,
    failures: dict[str, str],
    tested: bool,
    effect: float = 1.0,
) -> dict[str, Any]:
    """Everything that the ablation says, ready for JSON; a variant of which a run failed is left out, and said to be. The seeds that an `effect`
    of so many points would need are told.

    Raises `UserError` where the base, or a cell of a factorial, is not there.
    """
    overlap = _overlap(ablation)
    whole = [jobs for jobs in ablation.jobs if all(is_finished(job) for job in jobs)]
    if not whole or whole[0] is not ablation.jobs[0] or (grid is not None and len(whole) < len(ablation.jobs)):
        what = "the base" if grid is None else "a combination"
        raise UserError(
            "\n".join(
                [
                    f"{what} could not be trained, so nothing can be compared:",
                    *said(failures),
                    "They are tried again with --retry-failed.",
                ]
            )
        )
    arms = [_arm(ablation, jobs, tested) for jobs in whole]
    of_fold = [job.fold.number for job in whole[0]]
    rows = contrasts.build_rows(arms[0], arms[1:], overlap, of_fold)
    effects: list[dict[str, Any]] = []
    if grid is not None:
        val = {arm.changes: arm.val for arm in arms}
        effects = contrasts.build_effects(
            {cell: val[variant.changes] for cell, variant in grid.cells.items()}, grid.levels, overlap, of_fold
        )
    noise = contrasts.noise(rows[1:], effect, len(ablation.folds) > 1)
    first = ablation.folds[0]
    data = data_record(first.dataset, first.features)
    report = {
        "ablation": ablation.folder.name,
        "base": name_of(ablation.base.setting.network),
        "kind": "grid" if grid is not None else preset or "one change",
        "data": {key: data[key] for key in ("name", "synthetic", "counts", "digest")},
        "recipe": ablation.base.setting.recipe.name,
        "budget": ablation.budget,
        "input": list(ablation.input(ablation.base, first)),
        "train_input": list(ablation.train_input(ablation.base, first)),
        "seeds": list(range(ablation.seeds)),
        "folds": [fold.number for fold in ablation.folds],
        "overlap": overlap,
        "code": code_digest(),
        "runs_of_other_code": others,
        "inactive": skipped,
        "failed": failures,
        "rows": rows,
        "effects": effects,
        "noise": noise,
        "written": now(),
    }
    return {**report, "title": _title(report), "notes": _notes(report)}


def _title(report: dict[str, Any]) -> str:
    data, changes = report["data"], {"grid": "every combination of changes", TABLE_2: "each row of the paper's Table 2"}
    return (
        f"{data['name']}{' (synthetic data)' if data['synthetic'] else ''}: what {changes.get(report['kind'], 'one change')} does to "
        f"{report['base']}, validation accuracy"
    )


def _notes(report: dict[str, Any]) -> list[str]:
    """What one must know to read the table."""
    folds, seeds, counts = report["folds"], len(report["seeds"]), report["data"]["counts"]
    frames, mels = report["input"]
    notes = [
        f"{counted(seeds, 'seed')}, test fold{'s' * (len(folds) > 1)} {', '.join(map(str, folds))} ({counts['val']} val clips), "
        f"{report['budget']:,} clips at {report['train_input'][0]}x{report['train_input'][1]}, recipe {report['recipe']}; params and MACs "
        f"at {frames}x{mels}.",
        "Differences are absolute points of val accuracy, variant minus base, run by run with the same seed (order of the clips, "
        "augmentation draws, initial weights where shapes agree); relative is that difference over the base's accuracy, another number. "
        "p is adjusted after Holm over the rows of the table; what is not below 0.05 is inside the noise.",
    ]
    if report["data"]["synthetic"]:
        notes.insert(
            0,
            "The data is synthetic: a generated stand-in, not recordings. What differs here need not differ on recordings.",
        )
    if len(folds) == 1:
        notes.append("The interval speaks of other seeds on this split, not of other clips: one fold was used.")
    else:
        notes.append(
            f"The folds' training sets share clips: intervals and p are corrected after Nadeau and Bengio, with val over training clips = "
            f"{report['overlap']:.2f}; of all runs' error and that of the folds' means the larger one counts."
        )
    notes.append(contrasts.say_noise(report["noise"]))
    if report["rows"][0]["test"]:
        notes.append("Test was scored once a run; no row, order or verdict depends on it.")
    if report["runs_of_other_code"]:
        notes.append(f"{report['runs_of_other_code']} of the runs were made by other code, as --accept-code allows.")
    if report["kind"] == TABLE_2:
        notes += _published(report)
    if report["failed"]:
        notes.append("Variants of which a run failed are left out, for what is left of them would be a choice:")
        notes += [*said(report["failed"]), "They are tried again with --retry-failed."]
    return [*notes, *report["inactive"]]


def _published(report: dict[str, Any]) -> list[str]:
    """What the paper prints for these rows."""
    base = DSSDN[TABLE_2_BASE][0].accuracy
    assert base is not None
    said = []
    for name in ("dl-o", "dl-b"):
        accuracy, row = DSSDN[name][0].accuracy, _row_of(report, name)
        if accuracy is None or row is None:
            continue
        points = accuracy - base
        said.append(
            f"{name}: the paper prints {points:+.2f} points ({100 * points / base:+.1f} % relative), here {contrasts.interval_text(row['difference_points'])} "
            f"points ({row['verdict']})"
        )
    if report["base"] != TABLE_2_BASE or not said:
        return []
    return [
        f"The paper's Table 2 has one run a row, on TAU 2020 Mobile, the best epoch on test. {'; '.join(said)}.",
        "DL-B changes block, operators and down-sampling at once; dl-b-pooled keeps the down-sampling, plain the operators as well.",
    ]


def _row_of(report: dict[str, Any], name: str) -> dict[str, Any] | None:
    return next((row for row in report["rows"][1:] if row["network"] == str(NETWORKS[name])), None)


def write_report(ablation: Ablation, report: dict[str, Any], copies: dict[str, Path | None]) -> dict[str, str]:
    """Write the table in all forms into the ablation's folder, and to the `copies` by form; where each lies."""
    of = {key: report[key] for key in ("base", "kind", "recipe", "budget", "train_input", "seeds", "folds")}
    of["variants"] = [row["variant"] for row in report["rows"]]
    digest = hashlib.sha256(json.dumps(of, sort_keys=True).encode()).hexdigest()[:8]
    folder = ablation.folder / "reports" / f"{report['base'][:LONGEST_NOTATION]}-{digest}"
    rows, effects, title, notes = (report[key] for key in ("rows", "effects", "title", "notes"))
    synthetic = report["data"]["synthetic"]
    texts = {
        "csv": contrasts.as_csv(rows, synthetic),
        "markdown": contrasts.as_markdown(rows, effects, title, notes),
        "latex": contrasts.as_latex(rows, effects, title, notes),
    }
    for kind, text in texts.items():
        _write_text(folder / FILES[kind], text)
    write_html(
        forest_figure(contrasts.forest_rows(report), f"{report['data']['name']}: {report['base']}", synthetic),
        folder / FILES["html"],
    )
    _write_text(folder / "ablation.json", json.dumps(report, indent=1) + "\n")
    files = {kind: str(folder / name) for kind, name in FILES.items()}
    for kind, to in copies.items():
        if to is not None:
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(files[kind], to)
    return {**files, "json": str(folder / "ablation.json")}


def _write_text(path: Path, text: str) -> None:
    write_atomic(path, lambda file: file.write(text.encode()))
