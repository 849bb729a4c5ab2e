"""Prints Tables 1 and 2 of the paper beside this project's networks: `python -m search_space.tables`; with `--systems` every system of the papers."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from search_space.comparators import COMPARATORS, Published
from search_space.complexity import count_network, parse_input
from search_space.errors import Parser, UserError, open_console, run_command, unknown
from search_space.presets import NETWORKS

if TYPE_CHECKING:
    from rich.table import Table

RESULTS = Path(__file__).with_name("results.json")
"""The accuracies that this project has measured, kept in the repository."""

TABLE_1, TABLE_2, OTHERS = "Table 1", "Table 2", "Others"

_WIDTHS = "the paper prints no widths: one set of them for all its networks comes this near"

DSSDN: dict[str, tuple[Published, str | None]] = {
    "dssdn-large": (Published(110_000, 660_000_000, 66.20), None),
    "dssdn-middle": (Published(110_000, 610_000_000, 65.63), _WIDTHS),
    "dssdn-small": (Published(80_000, 560_000_000, 65.26), f"{_WIDTHS}; 0.078 M params in its text"),
    "dl-o": (Published(380_000, 2_450_000_000, 55.63), _WIDTHS),
    "dl-b": (
        Published(150_000, 14_120_000_000, 40.90),
        "takes away the distillation block and the down-sampling at once, as the printed MACs tell",
    ),
    "dl-b-pooled": (
        Published(None, None, None, None),
        "not in the paper: takes away the distillation block alone",
    ),
}
"""What the paper prints of its own networks (DSSDN, arXiv 2405.03567, Tables 1 and 2), and a note."""

_ROWS = (
    *((TABLE_1, name) for name in ("dssdn-large", "dssdn-middle", "dssdn-small")),
    *((TABLE_1, name) for name in ("resnet34", "mobilenet-v1", "mobilenet-v2", "mobilenet-v3", "inception-v1")),
    *((TABLE_2, name) for name in ("dssdn-large", "dl-o", "dl-b", "dl-b-pooled")),
    *((OTHERS, name) for name in ("sp4asc", "dsmn-1", "dsmn-2", "dsmn-3", "dsmn-4", "dsmn-4-64")),
)


class Setting(NamedTuple):
    """What two accuracies must share to be compared: data set, its digest, test fold and sample rate, recipe, input (frames x mels)."""

    dataset: str
    data_digest: str
    fold: int
    sample_rate: int
    recipe: str
    input: str


@dataclass(frozen=True)
class Result:
    """One network trained by this project: accuracies in per cent over the seeds, cost at `input` (frames x mels).

    `data_digest` names the sound and its splits; `fold` (the test fold; data of one split alone say 5, as `--fold` does) and `sample_rate` (Hz, as
    read) say of it what a reader asks first.

    `accuracy_std` is the standard deviation over the seeds, None for one seed. `command` is what makes the result again,
    `date` in ISO 8601. Raises `UserError` for a value that cannot be.
    """

    network: str
    dataset: str
    data_digest: str
    fold: int
    sample_rate: int
    recipe: str
    input: str
    seeds: tuple[int, ...]
    accuracy_mean: float
    accuracy_std: float | None
    params: int
    macs: int
    command: str
    date: str

    def __post_init__(self) -> None:
        for name in ("network", "dataset", "data_digest", "recipe", "command"):
            self._check(name, _is_text, "a text that is not empty")
        self._check(
            "input", lambda value: _is_text(value) and bool(parse_input(value)), "frames x mels such as 431x256"
        )
        object.__setattr__(self, "seeds", tuple(self.seeds) if isinstance(self.seeds, list) else self.seeds)
        self._check("seeds", _are_seeds, "a list of different whole numbers, at least one")
        self._check(
            "accuracy_mean",
            lambda value: _is_number(value) and 1 < value <= 100,
            "per cent, above 1 and up to 100 (a fraction is multiplied by 100)",
        )
        self._check(
            "accuracy_std",
            lambda value: value is None if len(self.seeds) == 1 else _is_number(value) and 0 <= value <= 100,
            "per cent, from 0 to 100; null for one seed and only then",
        )
        for name in ("fold", "sample_rate", "params", "macs"):
            self._check(name, lambda value: _is_whole(value) and value > 0, "a whole number above 0")
        self._check("date", _is_date, "a date in ISO 8601 such as 2025-01-31T12:00:00+00:00")

    def _check(self, name: str, holds: Callable[[Any], bool], rule: str) -> None:
        value = getattr(self, name)
        if not holds(value):
            raise UserError(f"{name} is {rule}; got {value!r}")

    @classmethod
    def read(cls, entry: object) -> Result:
        """The result that a JSON object holds. Raises `UserError` when keys are missing, unknown, or hold what cannot be."""
        names = [field.name for field in fields(cls)]
        if not isinstance(entry, Mapping):
            raise UserError(f"a result is an object with {names}; got {entry!r}")
        if missing := [name for name in names if name not in entry]:
            raise UserError(f"a result has {names}; missing: {missing}; add them")
        if surplus := sorted(set(entry) - set(names)):
            raise UserError(f"a result has {names}; unknown: {surplus}; leave them out")
        return cls(**entry)

    @property
    def setting(self) -> Setting:
        return Setting(self.dataset, self.data_digest, self.fold, self.sample_rate, self.recipe, self.input)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _are_seeds(value: object) -> bool:
    return isinstance(value, tuple) and 0 < len(value) == len(set(value)) and all(map(_is_whole, value))


def _is_date(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(datetime.fromisoformat(value))
    except ValueError:
        return False


def read_results(path: Path = RESULTS) -> list[Result]:
    """The results recorded in a file, in its order; none when there is no file.

    Raises `UserError` when the file is not a list of results, or holds two of one network in one setting.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise UserError(f"{path.name} is a JSON list of results; it is not JSON: {error}; restore it") from None
    if not isinstance(entries, list):
        raise UserError(f"{path.name} is a JSON list of results; got {type(entries).__name__}; restore it")
    results = []
    for number, entry in enumerate(entries, start=1):
        try:
            results.append(Result.read(entry))
        except UserError as error:
            raise UserError(f"{path.name}, result {number}: {error}") from None
    counts = Counter(map(_place, results))
    if double := [place for place, times in counts.items() if times > 1]:
        raise UserError(
            f"{path.name} has one result of a network in a setting; two of {double[0][0]!r} in {tuple(double[0][1])}; remove one"
        )
    return results


def _place(result: Result) -> tuple[str, Setting]:
    return result.network, result.setting


def record_result(path: Path, entry: Mapping[str, Any]) -> None:
    """Put one result into a file, in place of the one of the same network and setting if there is one.

    The file is replaced as a whole, so that a reader and a crash find it old or new. Two writers at once are one too many: the
    later one wins. Raises `UserError` for an entry or a file that is not what `Result` says, and leaves the file alone.
    """
    result = Result.read(entry)
    results = read_results(path)
    places = list(map(_place, results))
    if _place(result) in places:
        results[places.index(_place(result))] = result
    else:
        results.append(result)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            os.fchmod(handle, 0o644)
            json.dump([asdict(result) for result in results], file, indent=1, ensure_ascii=False)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def choose_setting(results: Iterable[Result], dataset: str | None = None) -> Setting | None:
    """The one setting a table shows, so that its accuracies compare: that of most networks, the latest among equals.

    `dataset` limits the choice. Raises `UserError` when nothing was recorded on that data set.
    """
    results = list(results)
    if dataset is not None:
        known = {result.dataset for result in results}
        if dataset not in known:
            raise unknown("data set", dataset, known)
        results = [result for result in results if result.dataset == dataset]
    by_setting: dict[Setting, list[Result]] = {}
    for result in results:
        by_setting.setdefault(result.setting, []).append(result)

    def weight(setting: Setting) -> tuple[int, str]:
        return len(by_setting[setting]), max(result.date for result in by_setting[setting])

    return max(by_setting, key=weight, default=None)


def build_rows(results: Iterable[Result] = (), setting: Setting | None = None) -> list[dict[str, Any]]:
    """Every row of the tables, ready for JSON; our accuracies are those of one setting, null where it has none.

    Params and MACs are whole numbers, accuracies per cent, deviations fractions (ours / published - 1). Each row names the
    convention and the input, [frames, mels], that its MACs of ours are counted by.
    """
    recorded = {result.network: result for result in results if result.setting == setting}
    return [_row(table, name, recorded.get(name)) for table, name in _ROWS]


def _row(table: str, name: str, result: Result | None) -> dict[str, Any]:
    if name in NETWORKS:
        published, note = DSSDN[name]
        input, convention = (431, 256), "conv+linear"
        n_outputs = 10
    else:
        comparator = COMPARATORS[name]
        published, note = comparator.published, comparator.note
        input, convention = comparator.input, comparator.convention
        n_outputs = comparator.outputs
    cost = count_network(name, input, n_outputs)
    macs = cost.macs_by[convention]
    return {
        "table": table,
        "network": name,
        "published": {"params": published.params, "macs": published.macs, "accuracy": published.accuracy},
        "ours": {
            "params": cost.params,
            "macs": macs,
            "accuracy": result and result.accuracy_mean,
            "dataset": result and result.dataset,
        },
        "deviation": {
            "params": published.params and cost.params / published.params - 1,
            "macs": published.macs and macs / published.macs - 1,
        },
        "published_dataset": published.dataset,
        "convention": convention,
        "input": list(input),
        "note": note,
        "result": result and asdict(result),
    }


def main(argv: list[str] | None = None) -> int:
    """The command: tables for people, or with `--json` one JSON document on stdout."""
    parser = Parser(prog="python -m search_space.tables", description=__doc__)
    parser.add_argument(
        "--dataset", metavar="NAME", help="show our accuracies on this data set (default: the one with most)"
    )
    parser.add_argument("--results", type=Path, metavar="FILE", help="recorded accuracies (default: the project's)")  # fmt: skip
    parser.add_argument(
        "--systems",
        action="store_true",
        help="every system of the papers: params and MACs ours against the printed ones",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args(argv)
    if arguments.systems:
        if arguments.dataset or arguments.results:
            raise UserError("--systems is about params and MACs alone; leave --dataset and --results out")
        return _systems(arguments.json)
    if arguments.results is not None and not arguments.results.is_file():
        what = "is a folder" if arguments.results.is_dir() else "does not exist"
        raise UserError(
            f"--results is a JSON file of recorded accuracies; {arguments.results} {what}; leave it out for the project's own"
        )
    results = read_results(arguments.results or RESULTS)
    setting = choose_setting(results, arguments.dataset)
    rows = build_rows(results, setting)
    if arguments.json:
        print(json.dumps({"rows": rows}))
    else:
        _print_tables(rows, results, setting)
    return 0


def _systems(as_json: bool) -> int:
    from search_space.systems import build_systems, systems_table

    rows = build_systems()
    if as_json:
        print(json.dumps({"rows": rows}))
        return 0
    console, notes = open_console(), dict[str, int]()
    console.print(systems_table(rows, notes))
    for text, number in notes.items():
        console.print(f"[{number}] {text}")
    console.print(
        "\nCounted as the publication did: conv+linear are multiply-accumulates of convolutions and linear layers, dcase is the counting of the DCASE "
        "rules (torchinfo), at frames x mels; deployed: batch norm folded into convolutions; merged: branches merged, batch norm left; else as it is "
        "trained. params and MACs: as printed, unknown where nobody did; dev: ours / printed - 1."
    )
    return 0


_HEADINGS = {
    TABLE_1: "Table 1: comparison (431x256, 10 classes)",
    TABLE_2: "Table 2: ablation (431x256, 10 classes)",
    OTHERS: "Others: SP4ASC by its report; DSMN by its README (44x256, 13 outputs, dcase counting)",
}


def _print_tables(rows: list[dict[str, Any]], results: list[Result], setting: Setting | None) -> None:
    console = open_console()
    notes: dict[str, int] = {}
    for table, heading in _HEADINGS.items():
        console.print(f"\n{heading}", style="bold")
        console.print(_table([row for row in rows if row["table"] == table], notes, setting))
    for text, number in notes.items():
        console.print(f"[{number}] {text}", markup=False)
    console.print(
        "\nMACs: convolutions and linear layers, biases not counted; by the dcase counting for DSMN. dev: ours / printed - 1.\n"
        "Printed accuracies, per cent: TAU Urban Acoustic Scenes 2020 Mobile, 10 s clips; DSMN: 2022 Mobile, 1 s clips.",
        markup=False,
    )
    if setting is None:
        console.print("Our accuracies: none recorded yet.")
        return
    console.print(
        f"Our accuracies, per cent, mean and deviation over seeds: {setting.dataset}, fold {setting.fold}, "
        f"{setting.sample_rate:,} Hz, recipe {setting.recipe}, input {setting.input}. Data of another name or size do not compare with the printed ones.",
        markup=False,
    )
    if others := sorted(
        {f"{result.dataset}, fold {result.fold}, {result.recipe}" for result in results if result.setting != setting}
    ):
        console.print(f"Also recorded, not shown: {'; '.join(others)} (--dataset NAME).", markup=False)


def _table(rows: list[dict[str, Any]], notes: dict[str, int], setting: Setting | None) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    table.add_column("network", no_wrap=True)
    printed = f"acc. printed\nTAU{'' if any(row['table'] == OTHERS for row in rows) else ' 2020'}"
    mine = "ours" if setting is None else f"ours\n{setting.dataset}"
    for heading in ("params printed", "ours", "dev", "MACs printed", "ours", "dev", printed, mine):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        published, ours, deviation, result = (row[key] for key in ("published", "ours", "deviation", "result"))
        mark = f" [{notes.setdefault(row['note'], len(notes) + 1)}]" if row["note"] else ""
        small = row["table"] == OTHERS
        params, macs = published["params"], published["macs"]
        table.add_row(
            Text(row["network"] + mark),
            "" if params is None else f"{params:,}" if small else f"{params / 1e6:.2f} M",
            f"{ours['params']:,}" if small else f"{ours['params'] / 1e6:.3f} M",
            _per_cent(deviation["params"]),
            "" if macs is None else f"{macs / 1e6:.2f} M" if small else f"{macs / 1e9:.2f} G",
            f"{ours['macs'] / 1e6:.3f} M" if small else f"{ours['macs'] / 1e9:.3f} G",
            _per_cent(deviation["macs"]),
            "" if published["accuracy"] is None else f"{published['accuracy']:.{1 if small else 2}f}",
            "" if result is None else _accuracy(result),
        )
    return table


def _per_cent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:+.1f} %"


def _accuracy(result: dict[str, Any]) -> str:
    spread = "" if result["accuracy_std"] is None else f" ± {result['accuracy_std']:.1f}"
    return f"{result['accuracy_mean']:.1f}{spread}"


if __name__ == "__main__":
    run_command(main)
