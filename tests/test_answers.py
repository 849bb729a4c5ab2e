"""Commands that answer with a document: asked, awaited, ended, torn."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from search_space.errors import UserError
from studies import answers


def wait(folder: Path) -> answers.Answer:
    """What came of it."""
    end = time.monotonic() + 30
    while answers.look(folder).name == "running":
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.02)
    return answers.look(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "answer"


SLEEP = ["-c", "import time; print('{', flush=True); time.sleep(60)"]


def test_nothing_was_asked(folder):
    assert answers.look(folder) == answers.Answer("none")
    answers.cancel(folder)
    assert not folder.exists()


def test_a_document_comes_back_with_the_words_beside_it(folder):
    answers.ask(folder, ["-c", "import sys; print('{\"a\": [1]}'); print('said', file=sys.stderr)"])
    assert wait(folder) == answers.Answer("finished", {"a": [1]}, "said")
    answers.ask(folder, ["-c", "print('{}')"])
    assert wait(folder) == answers.Answer("finished", {}, "")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise SystemExit('error: no such run')", "error: no such run"),
        ("print('{\"a\": 1')", "without a word"),
        ("print('[1]')", "without a word"),
        ("print('[' * 100000)", "without a word"),
    ],
)
def test_without_a_document_it_has_failed(folder, code, said):
    answers.ask(folder, ["-c", code])
    answer = wait(folder)
    assert answer.name == "failed"
    assert said in answer.log


def test_a_running_one_is_not_asked_again_and_can_be_ended(folder):
    answers.ask(folder, SLEEP)
    assert answers.look(folder).name == "running"
    with pytest.raises(UserError, match="is being worked on already"):
        answers.ask(folder, SLEEP)
    answers.cancel(folder)
    assert wait(folder).name == "failed"


def test_a_killed_one_has_failed(folder):
    answers.ask(folder, SLEEP)
    os.kill(json.loads((folder / "process.json").read_text())["pid"], signal.SIGKILL)
    assert wait(folder).name == "failed"


@pytest.mark.parametrize(
    "text", ["{", "[1]", "3", '{"pid": "x", "pid_started": 1}', '{"pid": -1, "pid_started": 1}', "[" * 100_000]
)
def test_a_torn_record_is_corrupt_and_asking_anew_mends_it(folder, text):
    folder.mkdir()
    (folder / "process.json").write_text(text)
    assert answers.look(folder).name == "corrupt"
    answers.cancel(folder)
    answers.ask(folder, ["-c", "print('{}')"])
    assert wait(folder).name == "finished"


def test_a_folder_that_can_not_be_written_is_said_to_be_so(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="can not be written"):
        answers.ask(tmp_path / "file" / "answer", ["-c", "pass"])
