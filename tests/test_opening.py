"""Opening data: what a person is told while it takes long, on a terminal and off one."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from search_space.errors import UserError
from studies import ablate, compare, run
from trainers import retrain
from trainers.opening import about, open_data, progress_bar


def written(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100)


def text_of(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


class TestProgress:
    def test_off_a_terminal_it_prints_lines_from_time_to_time(self, monkeypatch: pytest.MonkeyPatch) -> None:
        console = written(terminal=False)
        with progress_bar(console, "log-mels") as report:
            report(1, 2000)
            assert text_of(console) == ""  # not half a minute yet
            monkeypatch.setattr("trainers.opening.LINE_EVERY_S", 0.0)
            report(1000, 2000)
        assert text_of(console).split("\n") == ["log-mels: 1,000 of 2,000", ""]

    def test_on_a_terminal_it_is_a_bar_that_goes_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("trainers.opening.LINE_EVERY_S", 0.0)
        console = written(terminal=True)
        with progress_bar(console, "log-mels") as report:
            report(1000, 2000)
        assert "1000/2000" in text_of(console)
        assert "1,000 of 2,000" not in text_of(console)


def test_the_room_on_the_disk_is_said_once(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSSDN_CACHE", str(tmp_path))
    first, second = written(terminal=False), written(terminal=False)
    dataset, features = open_data(first, str(tiny_folder))
    assert f"log-mels of 45 clips at 44x256: 2 MB in {tmp_path / 'features'}\n" in text_of(first)
    assert all(notice in text_of(first) for notice in dataset.notices)
    again = open_data(second, str(tiny_folder))[1]
    assert again.digest == features.digest
    assert "log-mels of" not in text_of(second)
    assert "log-mels 44x256" in text_of(second)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (3, "less than 10 s"),
        (43, "about 45 s"),
        (3172, "about 53 min"),
        (89.6 * 60, "about 1 h 30 min"),
        (10_020, "about 2 h 50 min"),
        (3 * 3600 - 20, "about 3 h"),
        (50_000, "about 14 h"),
    ],
)
def test_an_estimate_is_no_finer_than_it_knows(seconds: float, said: str) -> None:
    assert about(seconds) == said


@pytest.mark.parametrize(
    ("command", "arguments", "words"),
    [
        (run.main, "--max-params 10", "--max-params 10: the least is"),
        (run.main, "--budget 10", "at least one batch of 32 clips, not 10"),
        (run.main, "--teacher runs/nope", "no teacher 'runs/nope'"),
        (run.main, "--train-input 999x16", "at most the full input"),
        (ablate.main, "--factors opperator", "unknown factor 'opperator'"),
        (ablate.main, "--factors operator=sp", "unknown level of operator 'sp'"),
        (ablate.main, "--budget 10", "at least one batch of 32 clips, not 10"),
        (ablate.main, "--base bc-resnet --prune 0.5 --factors precision", "can not be pruned"),
        (compare.main, "--budget 10", "at least one batch of 32 clips, not 10"),
        (retrain.main, "--architecture sp4asc --prune 0.5", "can not be pruned"),
        (retrain.main, "--architecture dssdn-small --prune 0.97", "it can not lose 97%"),
    ],
)
def test_a_slip_is_told_before_log_mels_are_made(
    command: Callable[[list[str]], int],
    arguments: str,
    words: str,
    tiny_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DSSDN_CACHE", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=words):
        command([*arguments.split(), "--data", str(tiny_folder), "--runs", str(tmp_path / "runs"), "--device", "cpu"])
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
