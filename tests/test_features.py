"""Log-mel spectrograms: equal to torchaudio's, framed as published, in a store that is never stale, loses nothing that is whole and
computes nothing twice."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from search_space.errors import UserError
from trainers.audio import read_sound
from trainers.clips import SPLITS
from trainers.datasets import open_dataset
from trainers.features import (
    FRONT_ENDS,
    ONE_SECOND,
    PAPER,
    Features,
    FrontEnd,
    describe,
    empty_mels,
    fitted_logmel,
    front_end_for,
    logmel,
    prepare,
    torchaudio,
)

RATE = 16_000
REAL = Path(__file__).parents[2] / "shared" / "data" / "tau2020-micro" / "audio"
# Few mel bins: the tests that are about the cache need no more.
SMALL = replace(front_end_for(RATE, 1.0), n_mels=16)


class TestFrontEnd:
    @pytest.mark.parametrize(
        ("sample_rate", "duration_s", "frames"),
        [
            (44_100, 10, 431),
            (44_100, 5, 216),
            (44_100, 1, 44),
            (44_100, 3, 130),
            (16_000, 5, 216),
            (8_000, 1, 44),
        ],
    )
    def test_frames_are_as_published(self, sample_rate: int, duration_s: float, frames: int) -> None:
        front_end = front_end_for(sample_rate, duration_s)
        assert front_end.frames(duration_s) == frames
        assert logmel(torch.zeros(front_end.samples(duration_s)), front_end).shape == (frames, 256)

    def test_published_ones(self) -> None:
        assert front_end_for(44_100, 10) == PAPER == FrontEnd()
        assert (PAPER.n_fft, PAPER.hop_length, PAPER.n_mels) == (2048, 1024, 256)
        assert front_end_for(44_100, 1) == ONE_SECOND
        assert (ONE_SECOND.n_fft, ONE_SECOND.hop_length, ONE_SECOND.n_mels) == (4096, 1024, 256)

    def test_names(self) -> None:
        assert {name: front_end.name for name, front_end in FRONT_ENDS.items()} == {name: name for name in FRONT_ENDS}
        assert front_end_for(16_000, 5).name == "paper"
        assert front_end_for(22_050, 1).name == "one-second"
        assert FrontEnd(n_mels=64).name == "custom"

    def test_description(self) -> None:
        assert describe(ONE_SECOND, 1) == (
            "log-mels 44x256 (frames x mels; front end one-second: 44,100 Hz, FFT 4096, hop 1024)"
        )
        assert describe(PAPER, 10).startswith("log-mels 431x256 (frames x mels; front end paper: ")

    @pytest.mark.parametrize("sample_rate", [4_000, 8_000, 11_025, 16_000, 22_050, 32_000, 44_100])
    @pytest.mark.parametrize("duration_s", [1, 5])
    def test_every_bin_is_fed_by_the_source(self, sample_rate: int, duration_s: float) -> None:
        front_end = front_end_for(sample_rate, duration_s)
        assert front_end.f_max <= sample_rate / 2
        assert empty_mels(front_end) == ()

    def test_empty_filters_of_the_htk_scale_are_named(self) -> None:
        assert empty_mels(FrontEnd(mel_scale="htk")) == (0,)
        assert len(empty_mels(FrontEnd(mel_scale="htk", n_fft=1024, win_length=1024))) == 20

    def test_too_short(self) -> None:
        with pytest.raises(UserError, match=r"clips of 0\.04 s are too short for this front end: more than 0\.046 s"):
            front_end_for(44_100, 0.04)


class TestLogmel:
    @pytest.mark.parametrize("arguments", [(44_100, 10), (44_100, 1), (16_000, 5)])
    @pytest.mark.parametrize("mel_scale", ["slaney", "htk"])
    @pytest.mark.filterwarnings("ignore:At least one mel filterbank")
    def test_equals_torchaudio(self, arguments: tuple[int, float], mel_scale: str) -> None:
        front_end = replace(front_end_for(*arguments), mel_scale=mel_scale)
        waveform_N = torch.randn(front_end.samples(1.0), generator=torch.Generator().manual_seed(0))
        mel_FT = torchaudio.transforms.MelSpectrogram(
            sample_rate=front_end.sample_rate,
            n_fft=front_end.n_fft,
            hop_length=front_end.hop_length,
            n_mels=256,
            mel_scale=mel_scale,
        )(waveform_N)
        torch.testing.assert_close(logmel(waveform_N, front_end), (mel_FT.T + 1e-5).log(), rtol=0, atol=1e-5)

    def test_equals_torchaudio_where_it_is_quiet(self) -> None:
        time_N = torch.arange(44_100) / 44_100
        waveform_N = 1e-3 * torch.sin(2 * torch.pi * 1000 * time_N)
        options = {"sample_rate": 44_100, "n_fft": 2048, "hop_length": 1024, "n_mels": 256, "mel_scale": "slaney"}
        expected = (torchaudio.transforms.MelSpectrogram(**options)(waveform_N).T + 1e-5).log()
        torch.testing.assert_close(logmel(waveform_N, PAPER), expected, rtol=0, atol=1e-4)

    @pytest.mark.skipif(not REAL.is_dir(), reason=f"no real recordings in {REAL}")
    def test_equals_torchaudio_on_real_recordings(self) -> None:
        options = {"sample_rate": 44_100, "n_fft": 2048, "hop_length": 1024, "n_mels": 256, "mel_scale": "slaney"}
        mel = torchaudio.transforms.MelSpectrogram(**options)
        paths = sorted(REAL.glob("*.wav"))
        assert len(paths) == 19
        for path in paths:
            sound = read_sound(path, path.name)
            found = fitted_logmel(sound.waveform_N, sound.sample_rate, PAPER, 10.0)
            assert found.shape == (431, 256)
            expected = (mel(torch.from_numpy(sound.waveform_N)).T + 1e-5).log()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)

    def test_a_tone_stands_in_the_bin_of_its_frequency(self) -> None:
        time_N = torch.arange(44_100) / 44_100
        loudest = logmel(torch.sin(2 * torch.pi * 1000 * time_N), FrontEnd()).mean(0).argmax()
        # Slaney's scale has 1000 Hz at 15 mel, of 60.0 at 22.05 kHz, in 257 steps
        assert abs(int(loudest) - (15 / 60 * 257 - 1)) <= 1

    def test_batch_items_are_independent(self) -> None:
        waveform_BN = torch.randn(3, 44_100, generator=torch.Generator().manual_seed(0))
        batch = logmel(waveform_BN, FrontEnd())
        single = torch.stack([logmel(waveform_N, FrontEnd()) for waveform_N in waveform_BN])
        torch.testing.assert_close(batch, single)

    def test_silence_is_the_floor(self) -> None:
        assert torch.allclose(logmel(torch.zeros(44_100), FrontEnd()), torch.tensor(1e-5).log())


def prepared(folder: Path, **options: object) -> tuple[Features, int]:
    """The folder's features, and how many clips were computed for them."""
    computed: list[int] = []
    dataset = open_dataset(str(folder), **options)  # type: ignore[arg-type]
    features = prepare(dataset, SMALL, progress=lambda done, total: computed.append(done))
    return features, len(computed)


def everything(features: Features) -> np.ndarray:
    """The log-mels of all clips, where all are in a split."""
    return features.read(np.arange(len(features.rows_N)))


def run_apart(code: str, folder: Path) -> subprocess.Popen[str]:
    """Python in a process of its own, with `prepare`, the dataset, the small front end, and rows written one by one."""
    start = (
        "import os, resource, select, signal, sys; from dataclasses import replace\n"
        "from search_space.errors import UserError\n"
        "from trainers import features; from trainers.features import front_end_for, prepare\n"
        "from trainers.datasets import open_dataset\n"
        "features.BLOCK_BYTES = 1; dataset = open_dataset(sys.argv[1])\n"
        "small = replace(front_end_for(dataset.sample_rate, 1.0), n_mels=16)\n"
    )
    command = [sys.executable, "-c", start + code, str(folder)]
    place = Path(__file__).parents[1]
    return subprocess.Popen(command, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def spoil(folder: Path, row: int) -> Path:
    """Put a file that can be opened and not used in the place of a clip's; its path comes back."""
    path = folder / "audio" / open_dataset(str(folder)).clips[row].filename
    soundfile.write(path, np.full(RATE, np.nan), RATE, subtype="FLOAT")
    return path


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSSDN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


class TestRows:
    def test_rows_are_the_clips_in_order(self, tiny_folder: Path) -> None:
        dataset = open_dataset(str(tiny_folder))
        features, _ = prepared(tiny_folder)
        assert features.size == (SMALL.frames(1.0), 16)
        assert everything(features).shape == (45, *features.size)
        assert everything(features).dtype == np.float16
        for row, clip in zip(everything(features), dataset.clips, strict=True):
            expected = logmel(dataset.load(clip)[0], SMALL).numpy()
            np.testing.assert_array_equal(row, expected.astype(np.float16))

    def test_default_front_end_is_the_datasets_own(self, tiny_folder: Path) -> None:
        features = prepare(open_dataset(str(tiny_folder)))
        assert features.front_end == front_end_for(RATE, 1.0)
        assert features.size == (44, 256)

    def test_short_clips_end_in_silence_and_long_ones_are_cut(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        first, second = open_dataset(str(folder)).clips[:2]
        noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
        soundfile.write(folder / "audio" / first.filename, noise[: RATE // 2], RATE)
        soundfile.write(folder / "audio" / second.filename, noise, RATE)
        features, _ = prepared(folder)
        short, long = features.read([0, 1])
        assert short[-5:].max() < np.log(1.1e-5)
        np.testing.assert_array_equal(short[:15], long[:15])

    def test_faster_files_are_resampled(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        first, second = open_dataset(str(folder)).clips[:2]
        for clip, rate in ((first, RATE), (second, 44_100)):
            samples = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
            soundfile.write(folder / "audio" / clip.filename, samples, rate)
        features, _ = prepared(folder)
        same, resampled = features.read([0, 1])[:, 4:-4].astype(np.float32).max(axis=2)  # without the ends
        np.testing.assert_allclose(resampled, same, atol=0.05)

    def test_statistics_are_of_train_alone(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        before, _ = prepared(folder)
        train = before.read(open_dataset(str(folder)).splits.train).astype(np.float64)
        np.testing.assert_allclose(before.mean_F, train.mean((0, 1)), atol=1e-4)
        np.testing.assert_allclose(before.std_F, train.std((0, 1)), atol=1e-4)
        for clip in open_dataset(str(folder)).clips:
            if clip.split != "train":
                soundfile.write(folder / "audio" / clip.filename, np.zeros(RATE), RATE)
        after, _ = prepared(folder)
        np.testing.assert_array_equal(after.mean_F, before.mean_F)
        np.testing.assert_array_equal(after.std_F, before.std_F)

    def test_empty_bins_are_reported_and_stay_finite(self, tiny_folder: Path) -> None:
        front_end = replace(front_end_for(RATE, 1.0), mel_scale="htk", n_fft=512, win_length=512)
        features = prepare(open_dataset(str(tiny_folder)), front_end)
        empty = empty_mels(front_end)
        assert features.notices == (f"{len(empty)} of 256 mel bins carry nothing (no FFT bin inside): {empty}",)
        assert (features.std_F[list(empty)] == 1).all()
        assert prepared(tiny_folder)[0].notices == ()


def record_bytes() -> int:
    """Of the journal with SMALL: key, digest, two moments of every mel bin in float32, CRC."""
    return 16 + 32 + 2 * 4 * SMALL.n_mels + 4


ROW_BYTES = SMALL.frames(1.0) * SMALL.n_mels * 2


class TestStore:
    def test_second_time_computes_nothing(self, tiny_folder: Path, own_cache: Path) -> None:
        first, computed = prepared(tiny_folder)
        assert computed == 45
        again, computed = prepared(tiny_folder)
        assert computed == 0
        assert again.digest == first.digest
        np.testing.assert_array_equal(everything(again), everything(first))

    def test_another_fold_computes_nothing(self, tiny_folder: Path, own_cache: Path) -> None:
        fold_5, _ = prepared(tiny_folder)
        fold_2, computed = prepared(tiny_folder, fold=2)
        assert computed == 0
        assert not np.array_equal(fold_2.mean_F, fold_5.mean_F)

    def test_subset_computes_nothing_and_the_whole_only_the_rest(
        self, tiny_folder: Path, own_cache: Path, tmp_path: Path
    ) -> None:
        clips = open_dataset(str(tiny_folder)).clips
        subset = tmp_path / "subset.csv"
        subset.write_text("\n".join(["filename", *(clip.filename for clip in clips[1::3])]))
        part, computed = prepared(tiny_folder, subset=str(subset))
        assert computed == 15
        whole, computed = prepared(tiny_folder)
        assert computed == 30
        in_part = np.flatnonzero(part.rows_N >= 0)
        np.testing.assert_array_equal(part.read(in_part), whole.read(np.arange(45)[1::3]))
        again, computed = prepared(tiny_folder, subset=str(subset))
        assert computed == 0
        np.testing.assert_array_equal(again.mean_F, part.mean_F)
        assert again.digest == part.digest

    def test_clips_in_no_split_are_not_computed(self, make_tau: Callable[..., Path], own_cache: Path) -> None:
        folder = make_tau()
        dataset = open_dataset(str(folder))
        unused = np.array([clip.split == "unused" for clip in dataset.clips])
        features, computed = prepared(folder)
        assert computed == (~unused).sum() < len(unused)
        assert ((features.rows_N == -1) == unused).all()
        with pytest.raises(ValueError, match="in no split has no log-mel"):
            features.read([0, int(np.flatnonzero(unused)[0])])

    def test_number_of_workers_changes_nothing(self, tiny_folder: Path, own_cache: Path) -> None:
        dataset = open_dataset(str(tiny_folder))
        one = everything(prepare(dataset, SMALL, workers=1))
        shutil.rmtree(own_cache)
        np.testing.assert_array_equal(everything(prepare(dataset, SMALL, workers=4)), one)

    def test_changed_file_alone_is_computed_again(self, make_folder: Callable[..., Path], own_cache: Path) -> None:
        folder = make_folder()
        before, _ = prepared(folder)
        rows = everything(before)
        clip = open_dataset(str(folder)).clips[4]
        soundfile.write(folder / "audio" / clip.filename, np.zeros(RATE), RATE)
        after, computed = prepared(folder)
        assert computed == 1
        assert after.digest != before.digest
        assert (after.read([4]) < np.log(1.1e-5)).all()
        others = np.delete(np.arange(45), 4)
        np.testing.assert_array_equal(after.read(others), rows[others])
        np.testing.assert_array_equal(everything(before), rows)  # who has the store open is not disturbed

    def test_file_that_changes_while_others_are_read_is_noticed(
        self, make_folder: Callable[..., Path], own_cache: Path
    ) -> None:
        folder = make_folder()
        dataset = open_dataset(str(folder))

        def change(done: int, total: int) -> None:
            if done == 20:
                soundfile.write(folder / "audio" / dataset.clips[2].filename, np.zeros(RATE), RATE)

        with pytest.raises(UserError, match="changed while they were read: run again"):
            prepare(dataset, SMALL, progress=change)
        features, computed = prepared(folder)
        assert computed == 1
        assert (features.read([2]) < np.log(1.1e-5)).all()

    def test_second_place_has_its_own(self, tiny_folder: Path, own_cache: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(tiny_folder, tmp_path / "copy")
        assert prepared(tiny_folder)[0].path != prepared(copy)[0].path

    def test_description_for_people(self, tiny_folder: Path) -> None:
        about = json.loads((prepared(tiny_folder)[0].path / "store.json").read_text())
        assert about["source"] == os.path.realpath(tiny_folder / "audio")
        assert about["front_end"]["n_mels"] == 16
        assert about["size"] == [44, 16]


class TestInterruptions:
    def test_killed_extraction_goes_on_where_it_stopped(self, tiny_folder: Path, own_cache: Path) -> None:
        code = (
            "prepare(dataset, small, progress=lambda done, total: done == 20 and os.kill(os.getpid(), signal.SIGKILL))"
        )
        assert run_apart(code, tiny_folder).wait(timeout=120) == -signal.SIGKILL
        features, computed = prepared(tiny_folder)
        assert computed == 25
        kept = everything(features)
        shutil.rmtree(own_cache)
        np.testing.assert_array_equal(everything(prepared(tiny_folder)[0]), kept)

    def test_interruption_keeps_what_is_computed(self, tiny_folder: Path, own_cache: Path) -> None:
        def interrupt(done: int, total: int) -> None:
            if done == 20:
                raise KeyboardInterrupt

        n_threads = torch.get_num_threads()
        with pytest.raises(KeyboardInterrupt):
            prepare(open_dataset(str(tiny_folder)), SMALL, progress=interrupt)
        assert torch.get_num_threads() == n_threads
        assert prepared(tiny_folder)[1] == 25

    @pytest.mark.parametrize("name", ["logmel.f16", "journal"])
    @pytest.mark.parametrize("tail", [b"x", bytes(500), bytes(5000)])
    def test_torn_end_is_cut_off(
        self, make_folder: Callable[..., Path], own_cache: Path, name: str, tail: bytes
    ) -> None:
        folder = make_folder()
        path = spoil(folder, 44)
        with pytest.raises(UserError, match="1 of 45"):
            prepared(folder)
        (store,) = (entry for entry in own_cache.iterdir() if entry.is_dir())
        with (store / name).open("ab") as file:
            file.write(tail)
        soundfile.write(path, np.zeros(RATE), RATE)
        features, computed = prepared(folder)
        assert computed == 1
        assert (features.read([44]) < np.log(1.1e-5)).all()
        assert (store / "logmel.f16").stat().st_size == 45 * ROW_BYTES
        assert (store / "journal").stat().st_size == 45 * record_bytes()

    @pytest.mark.parametrize("name", ["logmel.f16", "journal"])
    @pytest.mark.parametrize(("damage", "lost"), [("gone", 45), ("empty", 45), ("cut", 23)])
    def test_damaged_store_mends_itself(
        self, tiny_folder: Path, own_cache: Path, name: str, damage: str, lost: int
    ) -> None:
        before, _ = prepared(tiny_folder)
        expected, path = everything(before), before.path / name
        content = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
        after, computed = prepared(tiny_folder)
        assert computed == lost
        np.testing.assert_array_equal(everything(after), expected)

    @pytest.mark.parametrize("first_lost", [0, 16, 100])
    def test_record_that_never_reached_the_disk_counts_for_nothing(
        self, tiny_folder: Path, own_cache: Path, first_lost: int
    ) -> None:
        before, _ = prepared(tiny_folder)
        expected = everything(before)
        with (before.path / "journal").open("r+b") as file:
            lost = record_bytes() - first_lost
            file.seek(-lost, os.SEEK_END)
            file.write(bytes(lost))  # what a file system may leave after a power cut
        after, computed = prepared(tiny_folder)
        assert computed == 1
        np.testing.assert_array_equal(everything(after), expected)

    def test_rows_are_on_the_disk_before_their_records(
        self, tiny_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What is written and not waited for may be lost in a power cut: at every wait, all records are of rows waited for."""
        waits: list[tuple[str, int, int]] = []
        wait = os.fsync

        def noted(file: int) -> None:
            stats = {path.name: path.stat() for path in own_cache.glob("*/*")}
            wait(file)
            for name in ("logmel.f16", "journal"):
                if name in stats and os.path.samestat(os.fstat(file), stats[name]):
                    n_rows = stats["logmel.f16"].st_size // ROW_BYTES
                    waits.append((name, n_rows, stats["journal"].st_size // record_bytes()))

        monkeypatch.setattr(os, "fsync", noted)
        monkeypatch.setattr("trainers.features.BLOCK_BYTES", 10 * ROW_BYTES)
        prepared(tiny_folder)
        assert waits[-1] == ("journal", 45, 45)
        safe = 0
        for name, n_rows, n_records in waits:
            assert n_records <= safe
            if name == "logmel.f16":
                safe = n_rows

    def test_a_second_process_says_that_it_waits(self, tiny_folder: Path, own_cache: Path) -> None:
        code = (
            "def hold(done, total):\n"
            "    if done == 1: print('holding', flush=True); select.select([sys.stdin], [], [], 30)\n"
            "prepare(dataset, small, progress=hold)"
        )
        holder = run_apart(code, tiny_folder)
        assert holder.stdin
        assert holder.stdout
        assert holder.stdout.readline() == "holding\n"
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            assert holder.stdin
            holder.stdin.write("go on\n")
            holder.stdin.flush()

        found = prepare(open_dataset(str(tiny_folder)), SMALL, say=say)
        holder.communicate(timeout=120)
        assert said == ["waiting for another process that writes the same log-mels"]
        assert (found.rows_N >= 0).all()

    def test_two_processes_share_the_work(self, tiny_folder: Path, own_cache: Path) -> None:
        code = (
            "n = []; found = prepare(dataset, progress=lambda done, total: n.append(done))\n"
            "print(len(n), found.digest, float(found.read(range(45)).astype('f8').sum()))"
        )
        running = [run_apart(code, tiny_folder) for _ in range(2)]
        said = [process.communicate(timeout=120)[0].split() for process in running]
        assert sorted(int(computed) for computed, *_ in said) == [0, 45]
        assert said[0][1:] == said[1][1:]

    def test_bad_files_are_reported_together_and_the_others_kept(
        self, make_folder: Callable[..., Path], own_cache: Path
    ) -> None:
        folder = make_folder()
        bad = [spoil(folder, row) for row in (3, 30)]
        with pytest.raises(
            UserError, match="2 of 45 audio files cannot be used: 2 with NaN or infinite samples"
        ) as error:
            prepared(folder)
        assert all(path.name in str(error.value) for path in bad)
        for path in bad:
            soundfile.write(path, np.zeros(RATE), RATE)
        features, computed = prepared(folder)
        assert computed == 2
        assert (features.read([3, 30]) < np.log(1.1e-5)).all()


class TestDisk:
    def test_need_is_said_before_the_work(self, make_folder: Callable[..., Path], own_cache: Path) -> None:
        folder = make_folder()
        said = list[str]()

        def prepare_again() -> Features:
            return prepare(
                open_dataset(str(folder)), SMALL, say=said.append, progress=lambda done, total: said.append("")
            )

        features = prepare_again()
        assert said == [f"log-mels of 45 clips at 44x16: 1 MB in {own_cache}", *[""] * 45]
        written = sum((features.path / name).stat().st_size for name in ("logmel.f16", "journal"))
        assert written == 45 * (ROW_BYTES + record_bytes())
        prepare_again()
        assert len(said) == 46
        path = folder / "audio" / open_dataset(str(folder)).clips[7].filename
        soundfile.write(path, np.zeros(RATE), RATE)
        prepare_again()
        assert said[46:] == [f"log-mels of 1 clips at 44x16: 1 MB in {own_cache}", ""]

    def test_full_disk_is_said_and_keeps_whole_rows(self, tiny_folder: Path, own_cache: Path) -> None:
        code = (
            f"resource.setrlimit(resource.RLIMIT_FSIZE, ({20 * ROW_BYTES + 99},) * 2)\n"
            "try: prepare(dataset, small)\n"
            "except UserError as error: print(error)"
        )
        said = run_apart(code, tiny_folder).communicate(timeout=120)[0]
        assert "cannot be written under" in said
        assert "DSSDN_CACHE" in said
        features, computed = prepared(tiny_folder)
        assert computed == 25
        kept = everything(features)
        shutil.rmtree(own_cache)
        np.testing.assert_array_equal(everything(prepared(tiny_folder)[0]), kept)

    def test_too_little_room_is_said_before_the_work(
        self, tiny_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        free = 45 * (ROW_BYTES + record_bytes()) - 1
        monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": free})())
        with pytest.raises(UserError, match=r"the features need 1 MB in .* name another folder"):
            prepared(tiny_folder)
        free += 1
        assert prepared(tiny_folder)[1] == 45

    def test_folder_that_cannot_be_made(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("DSSDN_CACHE", str(tmp_path / "file"))
        with pytest.raises(UserError, match="the features cannot be written under"):
            prepared(tiny_folder)


class TestTwins:
    def test_one_recording_in_two_splits_is_told(self, make_folder: Callable[..., Path], own_cache: Path) -> None:
        folder = make_folder()
        clips = {split: [c.filename for c in open_dataset(str(folder)).clips if c.split == split] for split in SPLITS}
        audio = folder / "audio"
        shutil.copy(audio / clips["train"][0], audio / clips["train"][1])  # in one split: nobody is deceived
        assert prepared(folder)[0].notices == ()
        shutil.copy(audio / clips["train"][0], audio / clips["test"][0])
        shutil.copy(audio / clips["val"][4], audio / clips["test"][4])
        (notice,) = prepared(folder)[0].notices
        assert notice.startswith("2 recordings stand in two splits under different names (")
        assert f"{clips['train'][0]} (train) = {clips['test'][0]} (test)" in notice
        assert f"{clips['val'][4]} (val) = {clips['test'][4]} (test)" in notice
        assert "accuracy looks better than it is" in notice

    def test_many_are_counted_and_a_few_named(self, make_folder: Callable[..., Path], own_cache: Path) -> None:
        folder = make_folder()
        clips = open_dataset(str(folder)).clips
        by_split = [[clip.filename for clip in clips if clip.split == split] for split in ("val", "test")]
        for one, other in zip(*by_split, strict=True):
            shutil.copy(folder / "audio" / one, folder / "audio" / other)
        (notice,) = prepared(folder)[0].notices
        assert notice.startswith("9 recordings stand in two splits")
        assert notice.count(" = ") == 5
        assert "and 4 more" in notice


class TestDigest:
    def test_is_of_the_data_and_not_of_the_place(self, tiny_folder: Path, tmp_path: Path) -> None:
        copy = shutil.copytree(tiny_folder, tmp_path / "copy")
        assert prepared(copy)[0].digest == prepared(tiny_folder)[0].digest

    def test_is_of_the_data_and_not_of_the_front_end(self, tiny_folder: Path) -> None:
        assert prepare(open_dataset(str(tiny_folder))).digest == prepared(tiny_folder)[0].digest

    def test_knows_splits_and_labels(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        digests = {prepared(folder)[0].digest, prepared(folder, fold=1)[0].digest}
        path = folder / "meta" / "esc50.csv"
        rows = list(csv.reader(path.read_text().splitlines()))
        rows[1][3] = "noise"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(rows)
        features, computed = prepared(folder)
        assert computed == 0
        assert len({*digests, features.digest}) == 3
