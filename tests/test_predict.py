"""Prediction: the numbers of training, windows of long files, the table that DCASE asks for, and bad input named first."""

from __future__ import annotations

import csv
import dataclasses
import errno
import gzip
import io
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from search_space.architecture import Architecture
from search_space.errors import UserError, run_command
from search_space.rounding import per_cent
from trainers.datasets import open_dataset
from trainers.features import FrontEnd
from trainers.inputs import Inputs
from trainers.loop import seeded_model
from trainers.predict import DCASE_SCENES, Prediction, find_recordings, main, predict_files, write_csv
from trainers.recorded import save_weights
from trainers.retrain import retrain
from trainers.runs import Run

SHARED = Path(__file__).parents[2] / "shared" / "data"
RATE = 16_000


@pytest.fixture(scope="module")
def trial(tiny_study: tuple[Path, str]) -> Run:
    runs, name = tiny_study
    return Run(runs / name / "trials" / "00001")


@pytest.fixture(scope="module")
def retraining(tiny_study: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    runs = tmp_path_factory.mktemp("predict") / "runs"
    shutil.copytree(tiny_study[0] / tiny_study[1], runs / "tiny")
    return retrain(runs, "tiny", 1, epochs=1, device="cpu")


@pytest.fixture
def tau_run(tmp_path: Path) -> Run:
    """A network of DCASE's ten scenes with the weights it starts with, recorded as if trained on the synthetic data."""
    run = Run(tmp_path / "runs" / "tau" / "trials" / "00000")
    run.path.mkdir(parents=True)
    front_end = FrontEnd(RATE, n_fft=1024, win_length=1024, hop_length=372, n_mels=64, f_max=RATE / 2)
    data = {"name": "synthetic", "synthetic": True, "classes": list(DCASE_SCENES), "duration_s": 1.0}
    data["front_end"] = dataclasses.asdict(front_end)
    notation = "dssdn_c8-8-8_r0.5_sc_h64"
    run.write_json(
        "run.json",
        {"kind": "trial", "architecture": notation, "data": data, "input": [44, 64], "train_input": [16, 16]},
    )
    inputs = Inputs({}, torch.full((16,), -8.0), torch.full((16,), 3.0), DCASE_SCENES)
    save_weights(run, seeded_model(Architecture.parse(notation), len(DCASE_SCENES), 0), inputs)
    return run


def noise(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(round(seconds * rate))


def write(path: Path, wave: np.ndarray, rate: int = RATE, subtype: str = "FLOAT") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wave, rate, subtype=subtype)
    return path


def said_of(run: Run, *paths: Path) -> np.ndarray:
    """Probabilities (n, K) of files."""
    return np.array([list(said.probabilities.values()) for said in predict_files(run, paths, device="cpu").files])


def assert_alike(run: Run, one: Path, other: Path, within: float = 1e-6) -> None:
    np.testing.assert_allclose(said_of(run, one), said_of(run, other), atol=within, rtol=0)


def make_evaluation_set(folder: Path, n: int = 12, end: str = "\n") -> list[str]:
    """An evaluation set of `n` recordings whose list is in an order of its own; returns the names in this order."""
    names = [f"{number}.wav" for number in np.random.default_rng(0).permutation(n)]
    for number, name in enumerate(names):
        write(folder / "audio" / name, noise(1.0, seed=number), subtype="PCM_24")
    write(folder / "audio" / "not-on-the-list.wav", noise(1.0))
    (folder / "evaluation_setup").mkdir()
    rows = end.join(["filename", *(f"audio/{name}" for name in names)]) + end
    (folder / "evaluation_setup" / "fold1_test.csv").write_text(rows, newline="")
    return names


def dcase_errors(text: str, filenames: list[str]) -> list[str]:
    """What DCASE's rules have against a table for these files, and what common sense has."""
    header, *rows = csv.reader(io.StringIO(text), delimiter="\t")
    errors = [f"header {header}"] * (header != ["filename", "scene_label", *DCASE_SCENES])
    names = [Path(row[0]).name for row in rows]
    errors += [f"{len(set(names))} files of {len(filenames)}"] * (len(set(names)) != len(filenames))
    errors += ["a file twice"] * (len(set(names)) != len(names))
    errors += ["other files"] * (set(names) != set(filenames))
    for row, name in zip(rows, names, strict=True):
        if len(row) != 2 + len(DCASE_SCENES):
            errors.append(f"{len(row)} fields: {row}")
            continue
        if not name.endswith(".wav") or not 0 <= int(Path(name).stem) < len(filenames):
            errors.append(f"name {name}")
        values = [float(value) for value in row[2:]]
        if not all(math.isfinite(value) and 0 <= value <= 1 for value in values) or abs(sum(values) - 1) > 1e-5:
            errors.append(f"probabilities {values}")
        if row[1] not in DCASE_SCENES or row[1] != header[2:][int(np.argmax(values))]:
            errors.append(f"label {row[1]}")
    return errors


class TestTheNumbersOfTraining:
    @pytest.mark.parametrize("kind", ["trial", "retraining"])
    def test_files_give_what_the_run_recorded_of_its_validation_clips(
        self, kind: str, tiny_folder: Path, request: pytest.FixtureRequest
    ) -> None:
        run: Run = request.getfixturevalue(kind)
        recorded = run.predictions("val")
        assert recorded is not None
        said = predict_files(run, [tiny_folder / "audio" / name for name in recorded.filenames], device="cpu")
        assert [Path(file.filename).name for file in said.files] == recorded.filenames
        assert [file.scene for file in said.files] == [
            run.config["data"]["classes"][k] for k in recorded.probabilities_NK.argmax(1)
        ]
        found = np.array([list(file.probabilities.values()) for file in said.files])
        np.testing.assert_allclose(found, recorded.probabilities_NK, atol=1e-6, rtol=0)
        assert said.notices == ()

    def test_the_length_of_training_clips_is_recorded(self, trial: Run, tiny_folder: Path) -> None:
        assert trial.config["data"]["duration_s"] == open_dataset(str(tiny_folder)).duration_s == 1.0

    def test_a_file_is_predicted_alike_alone_and_among_many(self, trial: Run, tiny_folder: Path) -> None:
        everything = predict_files(trial, tiny_folder, device="cpu")
        assert len(everything.files) == 45  # more than a batch
        alone = predict_files(trial, tiny_folder / everything.files[40].filename, device="cpu").files[0]
        assert alone.filename == Path(everything.files[40].filename).name
        assert alone.probabilities == pytest.approx(everything.files[40].probabilities, abs=1e-6)

    def test_progress_counts_files_and_threads_are_as_they_were(self, trial: Run, tiny_folder: Path) -> None:
        heard: list[tuple[int, int]] = []
        before = torch.get_num_threads()
        predict_files(trial.path, tiny_folder / "audio", device="cpu", progress=lambda *counts: heard.append(counts))
        assert heard[-1] == (45, 45)
        assert heard == sorted(heard)
        assert torch.get_num_threads() == before

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_a_gpu_says_the_same(self, trial: Run, tiny_folder: Path) -> None:
        on_cpu, on_gpu = (predict_files(trial, tiny_folder, device=name).files for name in ("cpu", "cuda"))
        for one, other in zip(on_cpu, on_gpu, strict=True):
            assert one.probabilities == pytest.approx(other.probabilities, abs=2e-2)


class TestLengths:
    @pytest.mark.parametrize(
        ("seconds", "windows"), [(0.2, 1), (1.0, 1), (1.5, 1), (1.51, 2), (2.0, 2), (2.49, 2), (2.5, 3), (12.0, 12)]
    )
    def test_windows(self, trial: Run, tmp_path: Path, seconds: float, windows: int) -> None:
        path = write(tmp_path / "a.wav", noise(seconds))
        assert predict_files(trial, path, device="cpu").files[0].windows == windows

    @pytest.mark.parametrize("rate", [RATE, 44_100])
    def test_a_long_file_is_the_mean_of_its_windows(self, trial: Run, tmp_path: Path, rate: int) -> None:
        wave = np.concatenate([noise(5, rate), np.sin(np.arange(6 * rate) / 3), np.zeros(rate), noise(0.6, rate)])
        path = write(tmp_path / "long.flac", 0.5 * wave, rate, "PCM_24")
        parts = [
            write(tmp_path / f"{k}.flac", 0.5 * wave[k * rate : (k + 1) * rate], rate, "PCM_24") for k in range(13)
        ]
        said = predict_files(trial, [path], device="cpu")
        expected = said_of(trial, *parts)
        assert np.ptp(expected, axis=0).max() > 0.01  # windows that are alike would show nothing
        assert list(said.files[0].probabilities.values()) == pytest.approx(expected.mean(axis=0), abs=1e-6)
        assert any("cut into windows of 1 s (up to 13 a file)" in notice for notice in said.notices)

    def test_a_rest_below_half_a_window_and_what_follows_a_clip_are_not_heard(self, trial: Run, tmp_path: Path) -> None:
        wave = np.concatenate([noise(2, seed=1), np.sin(np.arange(0.4 * RATE) / 3)])
        whole, cut = write(tmp_path / "a.wav", wave), write(tmp_path / "b.wav", wave[: 2 * RATE])
        assert_alike(trial, whole, cut)
        trimmed, clip = (
            write(tmp_path / "c.wav", wave[-round(1.4 * RATE) :]),
            write(tmp_path / "d.wav", wave[-round(1.4 * RATE) :][:RATE]),
        )
        assert_alike(trial, trimmed, clip)

    def test_a_short_file_is_padded_with_zeros_and_named_in_a_notice(self, trial: Run, tmp_path: Path) -> None:
        wave = noise(0.4)
        short = write(tmp_path / "a.wav", wave)
        padded = write(tmp_path / "b.wav", np.pad(wave, (0, RATE - len(wave))))
        assert_alike(trial, short, padded)
        said = predict_files(trial, [short, padded], device="cpu")
        assert "1 of 2 files are shorter than half a training clip of 1 s" in said.notices[0]


class TestFormats:
    def test_stereo_48_khz_24_bit_is_the_mean_of_its_channels(self, trial: Run, tmp_path: Path) -> None:
        left, right = noise(3, 48_000, 1), noise(3, 48_000, 2)
        stereo = write(tmp_path / "a.wav", np.stack([left, right], axis=1), 48_000, "PCM_24")
        mono = write(tmp_path / "b.flac", (left + right) / 2, 48_000, "PCM_24")
        assert_alike(trial, stereo, mono, within=1e-3)

    # libsndfile lands 128 samples off in the last page of an Ogg file.
    @pytest.mark.parametrize(("suffix", "within"), [(".mp3", 1e-6), (".flac", 1e-6), (".ogg", 1e-2)])
    def test_a_window_of_a_compressed_file_is_what_decoding_it_whole_gives(
        self, trial: Run, tmp_path: Path, suffix: str, within: float
    ) -> None:
        path = tmp_path / f"a{suffix}"
        soundfile.write(path, np.sin(np.arange(14 * RATE) ** 1.2 / 50) * 0.3, RATE)
        whole, rate = soundfile.read(path)
        assert_alike(trial, path, write(tmp_path / "b.wav", whole, rate), within)

    def test_a_lower_sample_rate_than_the_trainings_is_named(self, trial: Run, tmp_path: Path) -> None:
        said = predict_files(trial, write(tmp_path / "a.wav", noise(1, 8_000), 8_000), device="cpu")
        assert "1 of 1 files are sampled at less than 16,000 Hz" in said.notices[0]

    @pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is not here")
    def test_the_real_recordings(self, trial: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        audio = SHARED / "tau2020-micro" / "audio"
        assert main([str(trial.path), str(audio), "--json", "--device", "cpu", "--csv", str(tmp_path / "o.csv")]) == 0
        document = json.loads(capsys.readouterr().out)
        assert [file["filename"] for file in document["files"]] == sorted(path.name for path in audio.iterdir())
        assert {file["windows"] for file in document["files"]} == {10}
        assert all(sum(file["probabilities"].values()) == pytest.approx(1, abs=1e-5) for file in document["files"])
        assert len((tmp_path / "o.csv").read_text().splitlines()) == 20


class TestFolders:
    def test_all_recordings_below_it_sorted_without_hidden_ones(self, tmp_path: Path) -> None:
        for name in ("b/2.WAV", "a.flac", "b/c/1.ogg", "._a.wav", ".cache/x.wav"):
            path = tmp_path / "in" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, noise(1), RATE, format={".WAV": "WAV"}.get(path.suffix))
        (tmp_path / "in" / "notes.txt").write_text("not audio")
        assert find_recordings(tmp_path / "in").filenames == ("a.flac", "b/2.WAV", "b/c/1.ogg")

    def test_what_a_zip_of_macos_leaves_is_hidden_and_linked_folders_are_followed(self, tmp_path: Path) -> None:
        for name in ("in/a.wav", "in/__MACOSX/b.wav", "in/x/__MACOSX/c.wav", "elsewhere/d.wav"):
            write(tmp_path / name, noise(0.1))
        (tmp_path / "in" / "linked").symlink_to(tmp_path / "elsewhere")
        assert find_recordings(tmp_path / "in").filenames == ("a.wav", "linked/d.wav")

    def test_a_folder_of_zips_is_told_from_an_empty_one(self, tmp_path: Path) -> None:
        for name in ("audio.1.zip", "audio.2.zip"):
            (tmp_path / name).touch()
        with pytest.raises(UserError, match=r"2 zip archives lie there \(audio.1.zip, audio.2.zip\): unpack them"):
            find_recordings(tmp_path)
        (tmp_path / "audio.1.zip").rename(tmp_path / "notes.txt")
        (tmp_path / "audio.2.zip").unlink()
        with pytest.raises(UserError, match=r"found notes\.txt$"):
            find_recordings(tmp_path)

    def test_a_folder_without_rights_is_not_passed_over(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write(tmp_path / "in" / "a.wav", noise(0.1))
        (tmp_path / "in" / "closed").mkdir()
        scandir = os.scandir

        def refusing(path: str) -> object:  # as the system does to people without rights; root has them all
            if Path(path).name == "closed":
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)
        with pytest.raises(UserError, match=r"closed' cannot be read \(Permission denied\): check its rights"):
            find_recordings(tmp_path / "in")

    @pytest.mark.parametrize("zipped", [False, True])
    @pytest.mark.parametrize("end", ["\n", "\r\n"])
    def test_an_evaluation_set_is_its_list_in_its_order(self, tmp_path: Path, zipped: bool, end: str) -> None:
        names = make_evaluation_set(tmp_path / "eval", end=end)
        if zipped:
            path = tmp_path / "eval" / "evaluation_setup" / "fold1_test.csv"
            path.with_name("fold1_test.csv.gz").write_bytes(gzip.compress(path.read_bytes()))
            path.unlink()
        recordings = find_recordings(tmp_path / "eval")
        assert list(recordings.filenames) == names
        assert recordings.folder == tmp_path / "eval" / "audio"

    def test_a_labelled_set_is_predicted_whole_and_not_judged(
        self, trial: Run, make_tau: Callable[..., Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = make_tau(seconds=0.5)
        assert main([str(trial.path), str(folder), "--json", "--device", "cpu"]) == 0
        out = capsys.readouterr().out
        document = json.loads(out)
        assert len(document["files"]) == len(list((folder / "audio").iterdir()))
        assert "never compared with their labels" in document["notices"][-1]
        assert "accuracy" not in out
        assert "airport" not in {scene for file in document["files"] for scene in file["probabilities"]}


class TestTheTable:
    def test_of_an_evaluation_set_it_keeps_dcases_rules(
        self, tau_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = make_evaluation_set(tmp_path / "eval", n=40)
        out = tmp_path / "new" / "Test_TAU_task1_1.output.csv"
        assert main([str(tau_run.path), str(tmp_path / "eval"), "--csv", str(out), "--device", "cpu"]) == 0
        text = out.read_text()
        assert dcase_errors(text, names) == []
        assert [line.split("\t")[0] for line in text.splitlines()[1:]] == names
        assert "(40 rows)" in capsys.readouterr().out

    def test_the_rules_see_what_breaks_them(self, tmp_path: Path) -> None:
        good = Prediction("0.wav", dict.fromkeys(DCASE_SCENES, 1 / 10), 1)
        write_csv(tmp_path / "o.csv", DCASE_SCENES, [good])
        text = (tmp_path / "o.csv").read_text()
        assert dcase_errors(text, ["0.wav"]) == []
        for spoilt in (
            text.replace("\t", ","),
            text.replace("0.wav\tairport", "0.wav\tbus"),
            text.replace("0.1\n", "nan\n"),
            text.replace("0.1\n", "1.1\n"),
            text.replace("0.wav", "0.flac"),
            text.replace("filename", "file"),
            text + text.splitlines()[1] + "\n",
            text.replace("\t0.1\n", "\n"),
        ):
            assert dcase_errors(spoilt, ["0.wav"]), spoilt

    def test_classes_come_sorted_and_the_largest_stays_the_largest(self, tmp_path: Path) -> None:
        close = {"b": float(np.float32(0.5)), "a": float(np.nextafter(np.float32(0.5), np.float32(1)))}
        write_csv(tmp_path / "o.csv", ["b", "a"], [Prediction("x.wav", close, 1)])
        header, row = (line.split("\t") for line in (tmp_path / "o.csv").read_text().splitlines())
        assert header == ["filename", "scene_label", "a", "b"]
        assert row[:2] == ["x.wav", "a"]
        assert np.float32(row[2]) > np.float32(row[3])

    def test_it_is_written_whole_or_not_at_all_and_overwritten_only_when_told(
        self, tau_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wav, out = write(tmp_path / "0.wav", noise(1)), tmp_path / "o.csv"
        out.write_text("precious")
        with pytest.raises(UserError, match="exists; name another file, or overwrite it with --force"):
            main([str(tau_run.path), str(wav), "--csv", str(out)])
        assert out.read_text() == "precious"
        assert main([str(tau_run.path), str(wav), "--csv", str(out), "--force", "--device", "cpu"]) == 0
        assert dcase_errors(out.read_text(), ["0.wav"]) == []
        assert sorted(path.name for path in tmp_path.iterdir()) == ["0.wav", "o.csv", "runs"]

    def test_what_a_table_for_dcase_lacks_is_said(
        self, tau_run: Run, trial: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        names = make_evaluation_set(tmp_path / "eval")
        assert main([str(trial.path), str(tmp_path / "eval"), "--device", "cpu"]) == 0
        assert "the network's 3 classes are not DCASE's ten scenes" in capsys.readouterr().out
        (tmp_path / "eval" / "audio" / names[3]).unlink()
        out = tmp_path / "o.csv"
        arguments = [str(tau_run.path), str(tmp_path / "eval"), "--csv", str(out), "--device", "cpu"]
        with pytest.raises(UserError, match=f"1 of 12 .* missing: {names[3]} .*has not finished.*--skip-bad"):
            main(arguments)
        assert not out.exists()
        assert main([*arguments, "--skip-bad"]) == 0
        printed = capsys.readouterr()
        assert "1 files of the list have no row; DCASE asks for every one" in printed.out
        assert f"left out {names[3]}: missing" in printed.err
        assert dcase_errors(out.read_text(), [name for name in names if name != names[3]])


class TestScreen:
    def test_a_file(self, trial: Run, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        wav = sorted((tiny_folder / "audio").iterdir())[0]
        assert main([str(trial.path), str(wav), "--device", "cpu"]) == 0
        out = capsys.readouterr().out
        assert f"{trial.path}: {trial.config['architecture']}" in out
        assert "trained on esc" in out
        assert "synthetic" not in out
        said = predict_files(trial, wav, device="cpu").files[0].probabilities
        ranked = sorted(said, key=lambda scene: -said[scene])
        assert [out.index(scene) for scene in ranked] == sorted(out.index(scene) for scene in ranked)
        assert per_cent(said[ranked[0]]) in out

    def test_a_folder(self, trial: Run, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(trial.path), str(tiny_folder / "audio"), "--device", "cpu"]) == 0
        out = capsys.readouterr().out
        assert "45 recordings below" in out
        assert "and 25 more; --csv OUT or --json has all" in out
        counts = Counter(said.scene for said in predict_files(trial, tiny_folder, device="cpu").files)
        rows = [line.split() for line in out.split("predicted scene")[1].splitlines()]
        assert {row[1]: row[3] for row in rows if len(row) == 8} == {k: str(n) for k, n in counts.items()}

    def test_synthetic_data_is_called_so_everywhere(
        self, tau_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        wav = write(tmp_path / "0.wav", noise(1))
        assert main([str(tau_run.path), str(wav), "--device", "cpu"]) == 0
        assert "trained on synthetic (synthetic data)" in capsys.readouterr().out
        assert main([str(tau_run.path), str(wav), "--device", "cpu", "--json"]) == 0
        printed = capsys.readouterr()
        assert json.loads(printed.out)["synthetic"] is True
        assert "(synthetic data)" in printed.err

    def test_json_is_one_document(self, trial: Run, tiny_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main([str(trial.path), str(tiny_folder / "audio"), "--json", "--device", "cpu"]) == 0
        document = json.loads(capsys.readouterr().out)
        config = trial.config
        assert document["run"] == str(trial.path)
        assert document["architecture"] == config["architecture"]
        assert (document["data"], document["synthetic"]) == ("esc", False)
        assert document["front_end"] == config["data"]["front_end"]
        assert document["classes"] == ["high", "low", "noise"]
        assert document["skipped"] == []
        file = document["files"][0]
        assert set(file) == {"filename", "scene", "probabilities", "windows"}
        assert file["scene"] == max(file["probabilities"], key=file["probabilities"].get)

    def test_names_in_brackets_are_names(
        self, tau_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        write(tmp_path / "in" / "a[red]b[/red].wav", noise(1))
        assert main([str(tau_run.path), str(tmp_path / "in"), "--device", "cpu"]) == 0
        assert "a[red]b[/red].wav" in capsys.readouterr().out


class TestBadInput:
    def test_a_studys_folder_names_its_runs(self, retraining: Run, tmp_path: Path) -> None:
        study = retraining.path.parents[1]
        wav = write(tmp_path / "a.wav", noise(1))
        for path in (study, study.parent, study / "trails", study.parent / "tinny" / "trials" / "00001"):
            with pytest.raises(UserError, match=r"holds no run .* near it: \S+00001-strong-e1-s0, \S+trials/0000"):
                main([str(path), str(wav)])
        with pytest.raises(UserError, match=r"near it: \S+trials/00000, \S+trials/00001"):
            main([str(study / "trials" / "99999"), str(wav)])

    def test_no_run_anywhere_near(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UserError, match="runs/NAME/trials/00006"):
            main(["nothing", str(write(tmp_path / "a.wav", noise(1)))])

    def test_the_other_way_round(self, trial: Run, tmp_path: Path) -> None:
        wav = write(tmp_path / "a b.wav", noise(1))
        with pytest.raises(UserError, match=r"the run comes first.*trainers.predict \S+00001 '.*a b.wav'"):
            main([str(wav), str(trial.path)])

    def test_a_run_without_weights(self, own_study: Path, tmp_path: Path) -> None:
        run = Run(own_study / "tiny" / "trials" / "00001")
        run.weights_path.unlink()
        with pytest.raises(UserError, match="has no weights: its training has not finished"):
            main([str(run.path), str(write(tmp_path / "a.wav", noise(1)))])

    def test_a_run_that_does_not_know_its_clips_length(self, tau_run: Run, tmp_path: Path) -> None:
        config = tau_run.config
        del config["data"]["duration_s"]
        tau_run.write_json("run.json", config)
        with pytest.raises(UserError, match="does not say how long its training clips are"):
            predict_files(tau_run, write(tmp_path / "a.wav", noise(1)))

    def test_no_such_input_no_recording_and_no_recordings(self, trial: Run, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no file or folder"):
            main([str(trial.path), str(tmp_path / "nowhere")])
        (tmp_path / "notes.txt").write_text("not audio")
        with pytest.raises(UserError, match=r"is no recording; known endings: .wav, .flac"):
            main([str(trial.path), str(tmp_path / "notes.txt")])
        with pytest.raises(UserError, match=r"no recordings below .*; found notes.txt"):
            main([str(trial.path), str(tmp_path)])

    def test_every_unusable_file_is_named_before_any_work(
        self, tau_run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = tmp_path / "in"
        for name in ("a.wav", "b.wav", "c.wav"):
            write(folder / name, noise(1))
        whole = (folder / "a.wav").read_bytes()
        (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
        (folder / "empty.wav").touch()
        (folder / "text.wav").write_text("not audio")
        heard: list[tuple[int, int]] = []
        with pytest.raises(UserError, match="3 of 6 recordings cannot be used") as caught:
            predict_files(tau_run, folder, device="cpu", progress=lambda *counts: heard.append(counts))
        assert heard == []
        for words in ("cut.wav", "empty: empty.wav", "not readable as audio: text.wav", "--skip-bad"):
            assert words in str(caught.value)
        assert "--subset" not in str(caught.value)
        assert main([str(tau_run.path), str(folder), "--device", "cpu", "--skip-bad", "--json"]) == 0
        printed = capsys.readouterr()
        document = json.loads(printed.out)
        assert [file["filename"] for file in document["files"]] == ["a.wav", "b.wav", "c.wav"]
        assert [file["filename"] for file in document["skipped"]] == ["cut.wav", "empty.wav", "text.wav"]
        assert "left out empty.wav: empty" in printed.err

    @pytest.mark.parametrize("seconds", [1.0, 4.0])
    def test_what_only_decoding_shows_is_named_too(self, tau_run: Run, tmp_path: Path, seconds: float) -> None:
        wave = noise(seconds)
        good = write(tmp_path / "a.wav", wave)
        wave[-10] = np.nan
        bad = write(tmp_path / "b.wav", wave)
        with pytest.raises(UserError, match=r"1 of 2 .* NaN or infinite samples: \S+b.wav; .*--skip-bad"):
            predict_files(tau_run, [bad, good], device="cpu")
        said = predict_files(tau_run, [bad, good], device="cpu", skip_bad=True)
        assert [file.filename for file in said.files] == [str(good)]
        assert [problem.filename for problem in said.skipped] == [str(bad)]
        assert said.files[0].probabilities == pytest.approx(
            predict_files(tau_run, [good], device="cpu").files[0].probabilities, abs=1e-6
        )
        with pytest.raises(UserError, match="1 of 1 recordings cannot be used"):
            predict_files(tau_run, [bad], device="cpu", skip_bad=True)

    @pytest.mark.parametrize("damage", ["in the samples", "in the header"])
    def test_notices_are_of_what_is_predicted(self, tau_run: Run, tmp_path: Path, damage: str) -> None:
        rate, spoilt = RATE // 2, noise(0.3, RATE // 2)
        spoilt[-10] = np.nan
        write(tmp_path / "in" / "good.wav", noise(1.0))
        write(tmp_path / "in" / "short.wav", noise(0.4, rate), rate)
        for name, wave in (("bad-short.wav", spoilt), ("bad-long.wav", np.tile(spoilt, 20))):
            path = write(tmp_path / "in" / name, wave, rate)
            if damage == "in the header":
                path.write_text("not audio")
        said = predict_files(tau_run, tmp_path / "in", device="cpu", skip_bad=True)
        assert len(said.files) == len(said.skipped) == 2
        assert len(said.notices) == 2
        assert said.notices[0].startswith("1 of 2 files are shorter than half a training clip")
        assert "the shortest has 0.40 s" in said.notices[0]
        assert said.notices[1].startswith("1 of 2 files are sampled at less than")

    def test_files_without_rights_are_named_with_what_to_do(
        self, tau_run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paths = [write(tmp_path / name, noise(1)) for name in ("a.wav", "b.wav")]
        stat = os.stat

        def refusing(path: object, *arguments: object, **options: object) -> os.stat_result:
            if path == paths[0]:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
            return stat(path, *arguments, **options)  # type: ignore[arg-type, call-overload]

        monkeypatch.setattr(os, "stat", refusing)
        with pytest.raises(
            UserError, match=r"1 of 2 .* 1 not readable for lack of rights: \S+a.wav \(chmod -R u\+rX"
        ) as error:
            predict_files(tau_run, paths, device="cpu")
        assert "copy them again" not in str(error.value)

    def test_a_table_that_cannot_be_written_is_found_before_any_work(self, tau_run: Run, tmp_path: Path) -> None:
        wav = write(tmp_path / "a.wav", noise(1))
        with pytest.raises(UserError, match="is a folder; name a file in it"):
            main([str(tau_run.path), str(wav), "--csv", str(tmp_path)])
        with pytest.raises(UserError, match="cannot be written"):
            main([str(tau_run.path), str(wav), "--csv", str(wav / "o.csv")])

    def test_the_command_fails_in_one_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            run_command(lambda: main([str(tmp_path / "none"), str(tmp_path)]))
        assert caught.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")
