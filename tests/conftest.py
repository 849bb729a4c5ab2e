"""A tiny data set in ESC-50's layout and a real study on it, made once a session by the project's own commands."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path

# The processes that share the cores while tests run are not to spin while they wait for one another's threads. Measured: training
# steps of a small network beside two busy processes take a third of the time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
if count := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(count))))

import numpy as np
import pytest
import soundfile

from studies import run as studies_run

SAMPLE_RATE = 16_000
CLASSES = ("low", "high", "noise")


def write_esc_folder(root: Path, clips_per_fold: int = 3, seconds: float = 1.0) -> Path:
    """A folder in ESC-50's layout: three classes that a small network tells apart, five folds, one source recording a clip."""
    rng = np.random.default_rng(0)
    (root / "audio").mkdir(parents=True)
    (root / "meta").mkdir()
    rows = []
    for fold in range(1, 6):
        for target, name in enumerate(CLASSES):
            for clip in range(clips_per_fold):
                time_N = np.arange(int(SAMPLE_RATE * seconds)) / SAMPLE_RATE
                tone = {"low": 300, "high": 3000, "noise": 0}[name] * rng.uniform(0.8, 1.2)
                wave_N = 0.1 * np.sin(2 * np.pi * tone * time_N) + (
                    0.1 if name == "noise" else 0.01
                ) * rng.standard_normal(len(time_N))
                source = fold * 1000 + target * 100 + clip
                filename = f"{fold}-{source}-A-{target}.wav"
                soundfile.write(root / "audio" / filename, wave_N, SAMPLE_RATE)
                rows.append([filename, fold, target, name, False, source, "A"])
    with (root / "meta" / "esc50.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["filename", "fold", "target", "category", "esc10", "src_file", "take"], *rows])
    return root


TAU_SCENES = ("airport", "bus", "park")


def write_tau_folder(root: Path, audio: bool = True, seconds: float = 1.0, parts: bool = False) -> Path:
    """A folder in TAU 2020 Mobile's layout (2022's with `parts`), with its traps: rows of neither fold at places of the test fold and of
    recorders that only test may hear. Three scenes that a small network tells apart, 8 places a scene to learn at, 3 to test at."""
    rng = np.random.default_rng(0)
    (root / "evaluation_setup").mkdir(parents=True)
    train, test, unused = [], [], []
    segment = 0
    for number, scene in enumerate(TAU_SCENES):
        for place in range(11):
            city = ("lyon", "paris")[place % 2]
            location = 100 * number + place
            for _ in range(2):
                for recorder in ("a", "b", "s1", "s4"):
                    middle = "-0" if parts else ""
                    name = f"{scene}-{city}-{location}-{segment}{middle}-{recorder}.wav"
                    row = (f"audio/{name}", scene, f"{city}-{location}", recorder)
                    if place < 8:
                        (unused if recorder == "s4" else train).append(row)
                    else:
                        test.append(row)
                segment += 1
            if place >= 8:
                name = f"{scene}-{city}-{location}-{segment}{'-0' if parts else ''}-a.wav"
                unused.append((f"audio/{name}", scene, f"{city}-{location}", "a"))
                segment += 1
    end = "\r\n" if parts else "\n"

    def write(path: Path, header: str, rows: list[tuple[str, ...]]) -> None:
        path.write_text(end.join([header, *("\t".join(row) for row in rows)]) + end, newline="")

    everything = [*train, *test, *unused]
    write(root / "meta.csv", "filename\tscene_label\tidentifier\tsource_label", everything)
    setup = root / "evaluation_setup"
    write(setup / "fold1_train.csv", "filename\tscene_label", [row[:2] for row in train])
    write(setup / "fold1_evaluate.csv", "filename\tscene_label", [row[:2] for row in test])
    write(setup / "fold1_test.csv", "filename", [row[:1] for row in test])
    if audio:
        (root / "audio").mkdir()
        for filename, scene, *_ in everything:
            time_N = np.arange(int(SAMPLE_RATE * seconds)) / SAMPLE_RATE
            tone = {"airport": 300, "bus": 3000, "park": 0}[scene] * rng.uniform(0.8, 1.2)
            wave_N = 0.1 * np.sin(2 * np.pi * tone * time_N)
            wave_N += (0.1 if scene == "park" else 0.01) * rng.standard_normal(len(time_N))
            soundfile.write(root / filename, wave_N, SAMPLE_RATE, subtype="PCM_24")
    return root


def tiny_arguments(folder: Path, runs: Path) -> list[str]:
    """The search command's arguments for the tiny study."""
    arguments = ["--data", str(folder), "--runs", str(runs), "--study", "tiny", "--trials", "4", "--workers", "1"]
    return [*arguments, "--budget", "96", "--train-input", "16x16"]


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never touch the user's cache, nor follow the user's environment."""
    patch = pytest.MonkeyPatch()
    patch.setenv("DSSDN_CACHE", str(tmp_path_factory.mktemp("cache")))
    patch.delenv("DSSDN_DATA", raising=False)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny data set; not to be changed (`make_folder` makes one that may be)."""
    return write_esc_folder(tmp_path_factory.mktemp("tiny") / "esc")


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a tiny data set that a test may spoil."""
    return lambda **options: write_esc_folder(tmp_path / "esc", **options)


@pytest.fixture
def make_tau(tmp_path: Path) -> Callable[..., Path]:
    """Makes a tiny folder in TAU's layout that a test may spoil."""
    return lambda **options: write_tau_folder(tmp_path / "tau", **options)


@pytest.fixture(scope="session")
def tiny_study(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(runs, name) of a finished study of four networks, made by the command; not to be changed."""
    runs = tmp_path_factory.mktemp("tiny-study") / "runs"
    assert studies_run.main(tiny_arguments(tiny_folder, runs)) == 0
    return runs, "tiny"


@pytest.fixture
def own_study(tiny_study: tuple[Path, str], tmp_path: Path) -> Path:
    """A runs folder with a copy of the tiny study that a test may write into."""
    runs, name = tiny_study
    shutil.copytree(runs / name, tmp_path / "runs" / name)
    return tmp_path / "runs"
