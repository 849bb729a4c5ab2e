"""How fast the dashboard is in a real browser, and what it costs a study that runs: `python -m benchmarks.page [--trials 10000]`.

The study is made up (`benchmarks.large_study`): three in ten of its trials complete, half stopped early, the rest duplicates, over a cap, failed.

* opening: from the address to a drawn Pareto page whose script has ended. The first time no server has ever read the study, and the page is
  asked for as soon as the server answers; then the same server again; then a new server, which finds what the first one kept.
* click: from a click on a point to its network beside the plot.
* table: from a click on "Table of all", which a large study's page makes only then, to the table.
* live: CPU seconds that the server uses for each second of wall clock while the Study page of a running study is open and a trial ends
  every few seconds, as a share of the machine's cores.
"""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.trial import TrialState, create_trial
from rich.table import Table

from benchmarks.large_study import _distribution, make_search, record, without_fsync
from benchmarks.speed import machine
from benchmarks.stand_in import write_noise
from search_space.complexity import count
from search_space.errors import Parser, UserError, open_console, run_command
from search_space.space import get_space
from studies import open_study
from studies.owners import owner
from studies.records import encode
from studies.search import Search
from studies.storage import open_storage
from trainers.opening import progress_bar

ROOT = Path(__file__).parent.parent
NAME = "large"
_COMPLETE = 0.3
_ENDINGS = {"stopped": 50, "duplicate": 15, "over_cap": 3, "failed": 2}
_RUNGS = (100, 300, 900)
_LONG = 2_000
"""Trials from which on the table is surely one that is made when it is asked for."""
_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]

_DRAWN = """() => {
    const plot = document.querySelector('.js-plotly-plot')
    return plot && plot._fullLayout && plot.querySelector('.scatterlayer, .gl-canvas') && plot.querySelector('.legend')
        && document.querySelector('[data-testid=stDataFrame]')
        && !document.querySelector('[data-testid=stStatusWidget]')
}"""
_PLACES = """limit => {
    const plot = document.querySelector('.js-plotly-plot'), {xaxis, yaxis} = plot._fullLayout, box = plot.getBoundingClientRect()
    const places = []
    for (const trace of plot.data.filter(trace => trace.customdata && (trace.name || '').startsWith('on the front')))
        trace.customdata.forEach(([trial], i) => places.push([trial, box.left + xaxis._offset + xaxis.d2p(trace.x[i]),
            box.top + yaxis._offset + yaxis.d2p(trace.y[i])]))
    return places.slice(0, limit)
}"""


def make_study(folder: Path, trials: int, report: Callable[[int, int], None] = lambda done, total: None) -> Path:
    """The runs folder of a made-up study of so many trials in every state that has ended."""
    data, runs = write_noise(folder / "data"), folder / "runs"
    search = make_search(data, runs, None, trials, "dssdn-blocks")
    complete = max(3, round(_COMPLETE * trials))
    with without_fsync():
        record(search, complete, lambda done, _: report(done, trials))
        study = optuna.load_study(study_name=NAME, storage=open_storage(runs / NAME))
        study.set_user_attr("halving", {"keep": [0.5, 0.5], "rungs": list(_RUNGS)})
        study.set_user_attr("budget", _RUNGS[-1])
        rng = random.Random(1)
        states, weights = list(_ENDINGS), list(_ENDINGS.values())
        for done in range(complete, trials):
            add_trial(study, search, rng, rng.choices(states, weights)[0])
            report(done + 1, trials)
    return runs


def add_trial(study: optuna.Study, search: Search, rng: random.Random, state: str) -> None:
    """One made-up trial that ended in this state (`studies.records.STATES`), or is under way in this process."""
    space = search.space
    network = space.sample(lambda _, options: rng.choice(options))
    cost = count(network, search.input, search.n_classes)
    chosen, choices = space.encode(network), space.choices
    about: dict[str, Any] = {"params": cost.params, "macs": cost.macs, "owner": owner(), "architecture": str(network)}
    score = 1 / (1 + math.exp(-(math.log10(cost.params) - 4 + rng.gauss(0, 0.2))))
    if state == "stopped":
        reached = rng.choice(_RUNGS[:-1])
        share = 0.4 if reached == _RUNGS[0] else 0.7
        about |= {"rungs": {str(reached): share * score}, "seconds": 10 * share}
    elif state == "duplicate":
        about["same_as"] = 3
    elif state == "failed":
        about["error"] = "RuntimeError: out of memory\nTraceback (most recent call last):\n  made up"
    if state not in ("complete", "running"):
        about["outcome"] = state
    ended = {"complete": TrialState.COMPLETE, "running": TrialState.RUNNING, "stopped": TrialState.PRUNED}
    trial = create_trial(
        state=ended.get(state, TrialState.PRUNED if state == "over_cap" else TrialState.FAIL),
        values=[score, cost.params, cost.macs] if state == "complete" else None,
        params={name: encode(choices[name], option) for name, option in chosen.items()},
        distributions={name: _distribution(choices[name]) for name in chosen},
        user_attrs=about | ({"seconds": 10.0} if state == "complete" else {}),
    )
    study.add_trial(trial)


@contextmanager
def served(runs: Path) -> Iterator[tuple[str, psutil.Process]]:
    """The address and the process of a dashboard of these runs, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [*(sys.executable, "-m", "streamlit", "run", "dashboard/app.py", "--server.port", str(port))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [*command, "--", "--runs", str(runs)], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    ) as server:
        try:
            _wait_for(f"http://127.0.0.1:{port}/_stcore/health")
            yield f"http://127.0.0.1:{port}", psutil.Process(server.pid)
        finally:
            server.terminate()


def _wait_for(url: str, most_s: float = 120) -> None:
    end = time.monotonic() + most_s
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError) as error:
            if time.monotonic() > end:
                raise UserError(f"the dashboard did not start within {most_s:.0f} s") from error
            time.sleep(0.1)


@contextmanager
def browsing() -> Iterator[Any]:
    """A Chromium."""
    from playwright.sync_api import sync_playwright

    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise UserError("no chromium on this machine; install it (apt install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_ARGUMENTS)
        yield browser
        browser.close()


def open_page(window: Any, address: str) -> tuple[Any, float]:
    """The Pareto page in a browser's window, and the seconds until it was there."""
    page = window.new_page()
    page.set_default_timeout(120_000)
    began = time.perf_counter()
    page.goto(f"{address}/pareto?study={NAME}")
    page.wait_for_function(_DRAWN, polling=50)
    return page, time.perf_counter() - began


def click_points(page: Any, times: int) -> list[float]:
    """Seconds from a click on a point of the front to its network beside the plot, a number a click."""
    taken = []
    for trial, x, y in page.evaluate(_PLACES, times):
        began = time.perf_counter()
        page.mouse.click(x, y)
        page.wait_for_function(
            "() => [...document.querySelectorAll('[data-testid=stMarkdown] strong')].some(e => e.textContent.startsWith('Trial '))"
            f" && new URLSearchParams(location.search).get('trial') !== null && {int(trial)} >= 0"
            " && document.querySelector('[data-testid=stMarkdown] strong').textContent"
            " === 'Trial ' + new URLSearchParams(location.search).get('trial')",
            polling=20,
        )
        taken.append(time.perf_counter() - began)
        page.wait_for_timeout(500)
    return taken


def open_table(page: Any) -> float:
    """Seconds from a click to the table of all networks."""
    before = page.locator("[data-testid=stDataFrame]").count()
    began = time.perf_counter()
    page.get_by_text("Table of all").click()
    page.wait_for_function(
        "many => document.querySelectorAll('[data-testid=stDataFrame]').length > many"
        " && !document.querySelector('[data-testid=stStatusWidget]')",
        arg=before,
        polling=20,
    )
    return time.perf_counter() - began


def cost_of_looking(
    browser: Any, runs: Path, seconds: float, every_s: float, views: tuple[str, ...] = ("",)
) -> dict[str, float]:
    """The server's CPU seconds for each second while the page of a running study is open, and as a share of the cores; a trial ends `every_s`."""
    folder = runs / NAME
    study = optuna.load_study(study_name=NAME, storage=open_storage(folder))
    data = runs.parent / "data"
    search = make_search(data, runs, None, len(study.trials), "dssdn-blocks")
    rng = random.Random(2)
    add_trial(study, search, rng, "running")
    with served(runs) as (address, process):
        pages = []
        for view in views:
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            page.goto(f"{address}/{view}?study={NAME}")
            page.wait_for_selector("text=training", timeout=120_000)
            pages.append(page)
        _settle(process)
        began, before = time.perf_counter(), _cpu_s(process)
        while time.perf_counter() - began < seconds:
            time.sleep(every_s)
            add_trial(study, search, rng, rng.choice(("complete", "stopped")))
        wall, used = time.perf_counter() - began, _cpu_s(process) - before
        for page in pages:
            page.close()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
    return {"cpu_s_per_s": used / wall, "share_of_cores": used / wall / (os.cpu_count() or 1), "watched_s": wall}


def _settle(process: psutil.Process, most_s: float = 60) -> None:
    """Wait until the server has done what opening took: looking is what is measured."""
    end = time.monotonic() + most_s
    while time.monotonic() < end:
        before = _cpu_s(process)
        time.sleep(2)
        if _cpu_s(process) - before < 0.1:
            return


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = Parser(prog="python -m benchmarks.page", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--trials", type=int, default=10_000, help="of the made-up study (default: 10000)")
    add("--opens", type=int, default=3, help="how often the page is opened again (default: 3)")
    add("--clicks", type=int, default=5, help="points that are clicked (default: 5)")
    add("--watch", type=float, default=40.0, metavar="SECONDS", help="how long a live page is watched (default: 40)")
    add("--every", type=float, default=4.0, metavar="SECONDS", help="between two ends of a trial then (default: 4)")
    add("--runs", type=Path, metavar="DIR", help="a folder that an earlier call has left (default: a temporary one)")
    add("--json", action="store_true", help="print one JSON document on stdout, the rest on stderr")
    options = parser.parse_args(argv)
    if options.trials < 20:
        raise UserError(f"--trials is at least 20, not {options.trials}")
    for name in ("opens", "clicks"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is at least 1, not {getattr(options, name)}")
    console = open_console(stderr=options.json)
    get_space("dssdn-blocks")
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary) if options.runs is None else options.runs
        runs = place / "runs"
        if not (runs / NAME).exists():
            with progress_bar(console, "made-up trials") as report:
                make_study(place, options.trials, report)
        shutil.rmtree(runs / NAME / ".cache", ignore_errors=True)
        states = open_study(NAME, runs).trials()["state"].value_counts()
        with browsing() as browser:
            with served(runs) as (address, _):
                window = browser.new_context(viewport={"width": 1280, "height": 900})
                page, first_s = open_page(window, address)
                page.close()
                opened = []
                for _ in range(options.opens):
                    page, taken = open_page(window, address)
                    opened.append(taken)
                    if len(opened) < options.opens:
                        page.close()
                clicked = click_points(page, options.clicks)
                table_s = open_table(page) if sum(states) > _LONG else math.nan
                page.close()
            with served(runs) as (address, _):
                page, restarted_s = open_page(window, address)
                page.close()
            console.print("pages are measured; a live one is watched")
            live = cost_of_looking(browser, runs, options.watch, options.every)
    row: dict[str, Any] = {
        **machine(),
        "made_up": True,
        "trials": {str(state): int(number) for state, number in states.items()},
        "first_open_s": first_s,
        "open_s": statistics.median(opened),
        "opens_s": opened,
        "open_new_server_s": restarted_s,
        "click_s": statistics.median(clicked),
        "clicks_s": clicked,
        "table_s": None if math.isnan(table_s) else table_s,
        "live": live,
        "load": os.getloadavg()[0],
    }
    if options.json:
        json.dump(row, sys.stdout)
        print()
        return 0
    table = Table("step", "seconds", title=f"{sum(row['trials'].values()):,} made-up trials, load {row['load']:.1f}")
    for key, words in (
        ("first_open_s", "opening the Pareto page, the first time"),
        ("open_s", "opening it again, median"),
        ("open_new_server_s", "opening it on a new server"),
        ("click_s", "a click to the network beside the plot, median"),
    ):
        table.add_row(words, f"{row[key]:.2f}")
    if row["table_s"] is not None:
        table.add_row("a click to the table of all networks", f"{table_s:.2f}")
    table.add_row("server's CPU for a second of an open live page", f"{live['cpu_s_per_s']:.3f}")
    console.print(table)
    console.print(f"an open live page takes {live['share_of_cores']:.1%} of the machine's {os.cpu_count()} cores")
    return 0


if __name__ == "__main__":
    run_command(main)
