"""Every system of the papers: params and MACs of ours against the printed ones, each counted as its authors did, at the input they counted at.

`python -m search_space.tables --systems` prints them. What nobody printed is unknown (None), and nothing is put in its place.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from search_space.comparators import COMPARATORS, PRINTED, Published
from search_space.complexity import Cost, count_module, count_network
from search_space.families import FAMILIES, family_of
from search_space.presets import NETWORKS, resolve
from search_space.tables import DSSDN

if TYPE_CHECKING:
    from rich.table import Table

_UNKNOWN = Published(None, None, None, None)


class NotBuilt(NamedTuple):
    """A system that this project speaks of and does not build: why, where it comes from, and what was printed."""

    source: str
    published: Published
    note: str


NOT_BUILT = {
    "rep-mobile-dcase2024": NotBuilt(
        "Han et al., arXiv 2410.20775",
        _UNKNOWN,
        "the winner of DCASE 2024 itself: widths, params and MACs are not printed, so nothing can be built to meet them; rep-mobile above is the "
        "released network of the same block",
    ),
    "passt": NotBuilt(
        "Koutini et al., arXiv 2110.05069; a teacher in DCASE 2022 to 2025",
        _UNKNOWN,
        "a pretrained transformer, used as a teacher alone and not built here: a file of its logits takes its place",
    ),
}

SYSTEMS: dict[str, tuple[str, ...]] = {
    "DSSDN": tuple(NETWORKS),
    "compared with in its Table 1": ("resnet34", "mobilenet-v1", "mobilenet-v2", "mobilenet-v3", "inception-v1"),
    "SP4ASC": ("sp4asc",),
    "DSMN": tuple(name for name in COMPARATORS if name.startswith("dsmn")),
    "CP-Mobile": tuple(name for name in PRINTED if name.startswith("cp-mobile")),
    "CP-ResNet": ("cp-resnet",),
    "Rep-Mobile": ("rep-mobile", "rep-mobile-dcase2024"),
    "BC-ResNet": ("bc-resnet", "bc-resnet-80"),
    "TF-SepNet": ("tf-sepnet-64",),
    "PaSST": ("passt",),
}
"""The names of every system's networks, in the order of the table."""


@cache
def build_systems() -> list[dict[str, Any]]:
    """A row each network, ready for JSON: `published`, `ours` (null where not built; `macs_by` every
    convention) and `deviation` (ours / published - 1, null where either is
    unknown), the `convention`, `form` and `input` [frames, mels] of both counts."""
    return [_row(system, name) for system, names in SYSTEMS.items() for name in names]


def _row(system: str, name: str) -> dict[str, Any]:
    if name in NOT_BUILT:
        source, published, note = NOT_BUILT[name]
        counted: dict[str, Any] = {"convention": None, "form": None, "input": None, "outputs": None}
        return _fields(system, name, source, published, note, None, counted)
    if name in NETWORKS:
        printed, note_of = DSSDN[name]
        counted = {"convention": "conv+linear", "form": "trained", "input": (431, 256), "outputs": 10}
        cost = count_network(name, (431, 256))
        return _fields(system, name, "arXiv 2405.03567, Tables 1 and 2", printed, note_of, cost, counted)
    if name in COMPARATORS:
        comparator = COMPARATORS[name]
        counted = {
            "convention": comparator.convention,
            "form": "trained",
            "input": comparator.input,
            "outputs": comparator.outputs,
        }
        cost = count_network(name, comparator.input, comparator.outputs)
        return _fields(system, name, comparator.source, comparator.published, comparator.note, cost, counted)
    of = PRINTED[name]
    counted = {"convention": of.convention, "form": of.form, "input": of.input, "outputs": of.outputs}
    return _fields(system, name, of.source, of.published, of.note, _cost(name), counted)


def _cost(name: str) -> Cost:
    """What a described network costs in the form that its printed figures are of."""
    of = PRINTED[name]
    if of.form == FAMILIES[family_of(resolve(name))].form:
        return count_network(name, of.input, of.outputs)
    import torch

    from search_space.model import build_model

    with torch.device("meta"):
        model = build_model(name, of.outputs, of.input[1])
    return count_module(model, (1, *of.input))


def _fields(
    system: str,
    name: str,
    source: str,
    published: Published,
    note: str | None,
    cost: Cost | None,
    counted: dict[str, Any],
) -> dict[str, Any]:
    ours = cost and {"params": cost.params, "macs": cost.macs_by[counted["convention"]], "macs_by": dict(cost.macs_by)}
    return {
        "system": system,
        "network": name,
        "source": source,
        "built": cost is not None,
        "published": published._asdict(),
        "ours": ours,
        "deviation": {
            key: None if ours is None or not getattr(published, key) else ours[key] / getattr(published, key) - 1
            for key in ("params", "macs")
        },
        **{key: list(value) if isinstance(value, tuple) else value for key, value in counted.items()},
        "note": note,
    }


def systems_table(rows: list[dict[str, Any]], notes: dict[str, int]) -> Table:
    """The rows for people; `notes` gets each note's number."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for heading in ("network", "counted"):
        table.add_column(heading, no_wrap=True)
    for heading in ("params", "ours", "dev", "MACs", "ours", "dev"):
        table.add_column(heading, justify="right", no_wrap=True)
    last = rows[0]["system"]
    for row in rows:
        if row["system"] != last:
            table.add_section()
        last = row["system"]
        mark = f" [{notes.setdefault(row['note'], len(notes) + 1)}]" if row["note"] else ""
        ours = row["ours"] or {"params": None, "macs": None}  # unknown, as what is printed of it
        where = "not built"
        if row["built"]:
            form = "" if row["form"] == "trained" else f" {row['form']}"
            where = f"{row['convention']} {row['input'][0]}x{row['input'][1]}{form}"
        table.add_row(
            Text(row["network"] + mark),
            where,
            *(_whole(row["published"]["params"]), _whole(ours["params"]), _per_cent(row["deviation"]["params"])),
            *(_millions(row["published"]["macs"]), _millions(ours["macs"]), _per_cent(row["deviation"]["macs"])),
        )
    return table


def _whole(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}" if value < 1e6 else f"{value / 1e6:.2f} M"


def _millions(value: int | None) -> str:
    return "unknown" if value is None else f"{value / 1e6:.3f} M" if value < 1e9 else f"{value / 1e9:.2f} G"


def _per_cent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:+.1f} %"
