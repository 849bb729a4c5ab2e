"""The search command: what it prints, its JSON, its options from a file, and bad input that ends it before any training."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import tiny_arguments

from search_space.errors import UserError
from studies import open_study
from studies.analysis import hypervolume_of
from studies.run import count_of, main


def test_json_is_one_document(own_study: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*tiny_arguments(tiny_folder, own_study), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    study = open_study("tiny", own_study)
    assert report["study"] == "tiny"
    assert (report["data"]["name"], report["data"]["synthetic"]) == ("esc", False)
    assert report["data"]["counts"] == {"train": 27, "val": 9, "test": 9}
    assert report["trials"] == {"complete": 4}
    assert report["clips_seen"] == 4 * 96
    assert report["reference_point"] == study.info["reference_point"]
    assert report["hypervolume"] == hypervolume_of(study.trials(), study.info["reference_point"])
    assert {"seconds", "budget", "space"} <= set(report)
    for row in report["front"]:
        assert set(row) == {"trial", "architecture", "val_accuracy", "params", "macs"}
        assert 0 <= row["val_accuracy"] <= 1
    assert (own_study / "tiny" / "front.html").stat().st_size > 10_000
    assert (own_study / "tiny" / "front.csv").read_text().count("\n") == len(report["front"]) + 1


def test_the_command_to_train_one_fully_leaves_the_length_to_the_recipe(
    own_study: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(tiny_arguments(tiny_folder, own_study)) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "trainers.retrain" in line]
    assert line.startswith("train one fully: python -m trainers.retrain --study tiny --trial ")
    assert "--epochs" not in line


def test_params_stay_whole_numbers_beside_a_trial_without_any(
    own_study: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = open_study("tiny", own_study)
    study._study.enqueue_trial({})  # as an interrupted study leaves one
    assert study.trials()["params"].dtype == float
    assert all(isinstance(row["params"], int) for row in study.front().to_dict("records"))
    assert main([*tiny_arguments(tiny_folder, own_study), "--json"]) == 0
    assert all(
        isinstance(row[cost], int)
        for row in json.loads(capsys.readouterr().out)["front"]
        for cost in ("params", "macs")
    )
    assert pd.read_csv(own_study / "tiny" / "front.csv")["params"].dtype == int
    assert main(tiny_arguments(tiny_folder, own_study)) == 0
    assert f"{study.front()['params'].iloc[0]:,} " in capsys.readouterr().out


def test_times_name_the_workers_and_the_calls(
    own_study: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("studies.run._FRONT_ROWS", 1)
    more = [*tiny_arguments(tiny_folder, own_study), "--workers", "2", "--trials", "5"]
    assert main(more) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"1 networks to train by 2 workers of \d+ threads?, less than 10 s for each on one worker: less than 10 s in all",
        said,
    )
    study = open_study("tiny", own_study)
    trained = sum(study.trials()["seconds"].dropna())
    assert re.search(r"this call took \d+ s all trainings of the study, over all calls and workers: \d+ s", said)
    assert f"workers: {round(trained)} s" in said
    assert " more in " not in said  # for a few rows the table does not break off
    monkeypatch.setattr("studies.run._FEW_MORE", 0)
    assert main(more) == 0
    assert f"and {len(study.front()) - 1} more in " in capsys.readouterr().out


def test_going_on_is_the_studys_own_command(tiny_study: tuple[Path, str]) -> None:
    study = open_study(tiny_study[1], tiny_study[0])
    made = "python -m studies.run --data 'my folder' --trials 4 --runs runs --space dssdn-wide --json"
    study.info["provenance"]["command"] = made
    assert study.going_on() == "python -m studies.run --data 'my folder' --runs runs --space dssdn-wide --trials N"
    study.info["provenance"]["command"] = "python -m pytest"
    assert study.going_on().startswith(
        f"python -m studies.run --study tiny --data {study.info['data']['source']} --fold 5"
    )


def test_a_config_file_holds_any_option_and_flags_win(
    own_study: Path, tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "study.toml"
    config.write_text(
        f'data = "{tiny_folder}"\nruns = "{own_study}"\nstudy = "tiny"\ntrials = 99\nworkers = 1\nbudget = 96\ntrain-input = "16x16"\njson = true\n'
    )
    assert main(["--config", str(config), "--trials", "4"]) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == {"complete": 4}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trails = 4", "unknown option in .*'trails'; .*known"),
        ("trials = ", "is not valid TOML"),
        ('trials = "many"', "trials = 'many'"),
        ("trials = true", "trials can not be True"),
        ("budget = 0", "at least 1"),
    ],
)
def test_a_bad_config_file_is_named(text: str, words: str, tmp_path: Path) -> None:
    config = tmp_path / "study.toml"
    config.write_text(text)
    with pytest.raises(UserError, match=words):
        main(["--config", str(config)])


def test_a_missing_config_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        main(["--config", str(tmp_path / "none.toml")])


def test_limits_are_options_of_the_command_and_of_its_file(own_study: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """The study was made without: that it is refused says that they arrived."""
    with pytest.raises(UserError, match=r"limits: None, now .*'dtype': 'float16'"):
        main([*tiny_arguments(tiny_folder, own_study), "--limits", "dcase2024"])
    config = tmp_path / "study.toml"
    config.write_text('limits = "dcase2024"\nprecision = "int8"\n')
    with pytest.raises(UserError, match=r"limits: None, now .*'dtype': 'int8'"):
        main([*tiny_arguments(tiny_folder, own_study), "--config", str(config)])


def test_counts_with_a_factor() -> None:
    assert [count_of(text) for text in ("3200", "100k", "0.6G", "1.5M")] == [
        3200,
        100_000,
        600_000_000,
        1_500_000,
    ]
    for text in ("0", "-3", "1.5", "many", "3x", "9" * 400):
        with pytest.raises(argparse.ArgumentTypeError, match="a whole number of at least 1"):
            count_of(text)


def _remove_audio(folder: Path) -> None:
    shutil.rmtree(folder / "audio")
    (folder / "audio").mkdir()


def _truncate(folder: Path) -> None:
    path = next((folder / "audio").iterdir())
    path.write_bytes(path.read_bytes()[:1000])


def _one_class(folder: Path) -> None:
    csv = folder / "meta" / "esc50.csv"
    lines = csv.read_text().splitlines()
    csv.write_text("\n".join(line for line in lines if ",low," in line or line.startswith("filename")))


@pytest.mark.parametrize("spoil", [shutil.rmtree, _remove_audio, _truncate, _one_class])
def test_bad_data_ends_the_command_before_any_training(
    spoil: Callable[[Path], None], make_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = make_folder()
    spoil(folder)
    command = [sys.executable, "-m", "studies.run", *tiny_arguments(folder, tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "option",
    [
        ["--fold", "9"],
        ["--subset", "esc99"],
        ["--device", "tpu"],
        ["--storage", "sqlite:///x.db"],
        ["--limits", "dcase1999"],
        ["--precision", "int8"],
        ["--precision", "int4", "--limits", "dcase2024"],
    ],
)
def test_unknown_values_are_refused(option: list[str], tiny_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=option[0].lstrip("-")):
        main([*tiny_arguments(tiny_folder, tmp_path / "runs"), *option])
    assert not list(tmp_path.glob("runs/*/trials"))


def test_a_place_that_can_not_be_written_is_named_without_a_traceback(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "studies.run", *tiny_arguments(tiny_folder, tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: Not a directory" in done.stderr


def test_a_storage_url_is_recorded_without_its_password() -> None:
    code = "import sys; from trainers.runs import provenance; print(provenance()['command'])"
    command = [sys.executable, "-c", code, "--storage", "postgresql://me:secret@host/db?password=secret", "a folder"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "postgresql://me@host/db" in printed
    assert "secret" not in printed
    assert "'a folder'" in printed
