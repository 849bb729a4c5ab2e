"""Which networks are shown, by what they chose, cost and scored. The URL says it: `filter=operator:sc,osc;depth:4;params:10000-50000`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st

from dashboard.choice import keep
from studies.charts import quantity
from studies.fronts import option_text

RANGES = {"params": "Parameters", "macs": "MACs", "accuracy": "Accuracy (%)"}
_LONGEST = 4_000
_NUMBER = r"(?:[0-9]{1,15}(?:\.[0-9]{1,6})?)?"
_STEPS = 24


@dataclass(frozen=True)
class Filters:
    """What a network must be to be shown: one of the `options` of every choice named, and within all `ranges` (accuracy in per cent)."""

    options: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """As the URL says it."""
        words = [f"{name}:{','.join(map(option_text, options))}" for name, options in self.options.items()]
        words += [f"{name}:{_end(low)}-{_end(high)}" for name, (low, high) in self.ranges.items()]
        return ";".join(words)

    def mask(self, trials: pd.DataFrame) -> pd.Series:
        """Which rows are shown. What was never scored has no accuracy that could keep it out."""
        shown = pd.Series(True, index=trials.index)
        for name, options in self.options.items():
            shown &= trials[name].isin(options)
        for name, (low, high) in self.ranges.items():
            values = 100 * score(trials) if name == "accuracy" else trials[name].astype(float)
            shown &= values.between(low, high) | (values.isna() if name == "accuracy" else False)
        return shown


def score(trials: pd.DataFrame) -> pd.Series:
    """Accuracy (0 to 1) of trials at the full budget, or at the last rung of a network that was stopped."""
    return trials["val_accuracy"].astype(float).fillna(trials["rung_accuracy"].astype(float))


def read_filters(text: str, choices: Mapping[str, Sequence[Any]]) -> Filters:
    """What a URL asks for, as far as it means something: choices and options that exist, ranges of numbers that ascend."""
    options: dict[str, tuple[Any, ...]] = {}
    ranges: dict[str, tuple[float, float]] = {}
    for word in text[:_LONGEST].split(";"):
        name, _, rest = word.partition(":")
        if name in choices:
            asked = set(rest.split(","))
            found = tuple(option for option in choices[name] if option_text(option) in asked)
            if found:
                options[name] = found
        elif name in RANGES and (match := re.fullmatch(f"({_NUMBER})-({_NUMBER})", rest)):
            low, high = float(match[1] or 0), float(match[2] or np.inf)
            if low <= high and (low, high) != (0, np.inf):
                ranges[name] = (low, high)
    return Filters(options, ranges)


def show_filters(trials: pd.DataFrame, choices: Mapping[str, Sequence[Any]]) -> Filters:
    """The filters of the URL, and widgets that change them."""
    filters = read_filters(st.query_params.get("filter", ""), choices)
    active = len(filters.options) + len(filters.ranges)
    with st.popover(f"Filters ({active})" if active else "Filters", icon=":material/filter_alt:", width="stretch"):
        steps = {name: _steps(trials, name) for name in RANGES}

        def change() -> None:
            by = st.session_state["filter-by"]
            options = {name: tuple(st.session_state.get(f"filter-{name}", ())) for name in by}
            ranges = {}
            for name in steps:
                low, high = (st.session_state.get(f"filter-{name}-{end}") for end in ("from", "to"))
                if low is not None or high is not None:
                    ranges[name] = (low or 0.0, np.inf if high is None else high)
            keep("filter", Filters({name: some for name, some in options.items() if some}, ranges).text)

        before = st.session_state.get("filter-by", [])
        st.session_state["filter-by"] = [name for name in choices if name in filters.options or name in before]
        st.multiselect(
            "Choices of the space",
            list(choices),
            key="filter-by",
            format_func=_words,
            on_change=change,
            placeholder="any",
        )
        for name in st.session_state["filter-by"]:
            st.session_state[f"filter-{name}"] = list(filters.options.get(name, ()))
            st.multiselect(
                _words(name).capitalize(),
                list(choices[name]),
                key=f"filter-{name}",
                format_func=option_text,
                on_change=change,
                placeholder="any",
            )
        for name, words in RANGES.items():
            places = steps[name]
            if len(places) < 2:
                continue
            low, high = filters.ranges.get(name, (0.0, np.inf))
            written = _per_cent if name == "accuracy" else quantity
            for column, end, value in zip(st.columns(2), ("from", "to"), (low, high), strict=True):
                asked = value if 0 < value < np.inf else None
                st.session_state[f"filter-{name}-{end}"] = asked
                column.selectbox(
                    f"{words} {end}",
                    sorted({*places, asked} if asked else places),  # what the URL says is kept as it is
                    key=f"filter-{name}-{end}",
                    format_func=written,
                    on_change=change,
                    placeholder="any",
                )
        if active:
            st.button("Show all networks", key="filter-none", on_click=lambda: _empty(), width="stretch")
    return filters


def _empty() -> None:
    keep("filter", "")
    st.session_state["filter-by"] = []


def _end(value: float) -> str:
    return "" if value in (0, np.inf) else np.format_float_positional(value, trim="-")


def _per_cent(value: float) -> str:
    return f"{value:g}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _steps(trials: pd.DataFrame, name: str) -> list[float]:
    """Places where a range may end, from below the least to above the most that there is."""
    if name == "accuracy":
        return [float(per_cent) for per_cent in range(5, 101, 5)]
    values = trials[name].dropna().astype(float)
    if values.empty or values.min() <= 0:
        return []
    low, high = _rounded(values.min(), np.floor), _rounded(values.max(), np.ceil)
    return sorted({low, high, *(_rounded(v, np.round) for v in np.geomspace(low, high, _STEPS)[1:-1])})


def _rounded(value: float, to: Any) -> float:
    """To two figures."""
    unit = 10.0 ** (np.floor(np.log10(value)) - 1)
    return float(to(value / unit) * unit)
