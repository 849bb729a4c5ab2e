"""Log-mel spectrograms: equal to torchaudio's, framed as published, and a cache that is never stale and never half there."""

from __future__ import annotations

import csv
import json
import os
import shutil
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
from trainers.datasets import open_dataset
from trainers.features import Features, FrontEnd, empty_mels, front_end_for, logmel, prepare, torchaudio

RATE = 16_000
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

    def test_paper(self) -> None:
        assert front_end_for(44_100, 10) == FrontEnd()
        assert (FrontEnd().n_fft, FrontEnd().hop_length, FrontEnd().n_mels) == (2048, 1024, 256)

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

    def test_digest_tells_front_ends_apart(self) -> None:
        assert FrontEnd().digest == FrontEnd().digest != FrontEnd(mel_scale="htk").digest


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
        torch.testing.assert_close(logmel(waveform_N, front_end), (mel_FT.T + 1e-5).log(), rtol=0, atol=0)

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


def prepared(folder: Path, **options: int) -> tuple[Features, int]:
    """The folder's features, and how many clips were computed for them."""
    computed: list[int] = []
    features = prepare(open_dataset(str(folder), **options), SMALL, progress=lambda done, total: computed.append(done))
    return features, len(computed)


def nothing_half_done() -> bool:
    return not list((Path(os.environ["DSSDN_CACHE"]) / "features").glob("*.partial"))


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DSSDN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "features"


class TestRows:
    def test_rows_are_the_clips_in_order(self, tiny_folder: Path) -> None:
        dataset = open_dataset(str(tiny_folder))
        features, _ = prepared(tiny_folder)
        assert features.logmel.shape == (45, SMALL.frames(1.0), 16)
        assert features.logmel.dtype == np.float16
        for row, clip in zip(features.logmel, dataset.clips, strict=True):
            expected = logmel(dataset.load(clip)[0], SMALL).numpy()
            np.testing.assert_array_equal(row, expected.astype(np.float16))

    def test_default_front_end_is_the_datasets_own(self, tiny_folder: Path) -> None:
        features = prepare(open_dataset(str(tiny_folder)))
        assert features.front_end == front_end_for(RATE, 1.0)
        assert features.logmel.shape == (45, 44, 256)

    def test_short_clips_end_in_silence_and_long_ones_are_cut(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        first, second = open_dataset(str(folder)).clips[:2]
        noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE)
        soundfile.write(folder / "audio" / first.filename, noise[: RATE // 2], RATE)
        soundfile.write(folder / "audio" / second.filename, noise, RATE)
        features, _ = prepared(folder)
        assert features.logmel[0, -5:].max() < np.log(1.1e-5)
        np.testing.assert_array_equal(features.logmel[0, :15], features.logmel[1, :15])

    def test_faster_files_are_resampled(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        first, second = open_dataset(str(folder)).clips[:2]
        for clip, rate in ((first, RATE), (second, 44_100)):
            samples = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(rate) / rate)
            soundfile.write(folder / "audio" / clip.filename, samples, rate)
        features, _ = prepared(folder)
        same, resampled = features.logmel[:2, 4:-4].astype(np.float32).max(axis=2)  # without the ends
        np.testing.assert_allclose(resampled, same, atol=0.05)

    def test_statistics_are_of_train_alone(self, make_folder: Callable[..., Path]) -> None:
        folder = make_folder()
        before, _ = prepared(folder)
        train = before.logmel[open_dataset(str(folder)).splits.train].astype(np.float64)
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
        assert features.n_empty_mels == len(empty) > 0
        assert str(empty) in features.notices[0]
        assert (features.std_F[list(empty)] == 1).all()
        assert prepared(tiny_folder)[0].notices == ()


class TestCache:
    def test_second_time_computes_nothing(self, tiny_folder: Path, own_cache: Path) -> None:
        first, computed = prepared(tiny_folder)
        assert computed == 45
        again, computed = prepared(tiny_folder)
        assert computed == 0
        assert again.digest == first.digest
        np.testing.assert_array_equal(again.logmel, first.logmel)

    def test_another_fold_computes_nothing(self, tiny_folder: Path, own_cache: Path) -> None:
        fold_5, _ = prepared(tiny_folder)
        fold_2, computed = prepared(tiny_folder, fold=2)
        assert computed == 0
        assert not np.array_equal(fold_2.mean_F, fold_5.mean_F)

    def test_number_of_workers_changes_nothing(self, tiny_folder: Path, own_cache: Path) -> None:
        one = prepare(open_dataset(str(tiny_folder)), SMALL, workers=1).logmel.copy()
        shutil.rmtree(own_cache)
        np.testing.assert_array_equal(prepare(open_dataset(str(tiny_folder)), SMALL, workers=4).logmel, one)

    def test_changed_file_is_noticed(self, make_folder: Callable[..., Path], own_cache: Path) -> None:
        folder = make_folder()
        before, _ = prepared(folder)
        clip = open_dataset(str(folder)).clips[4]
        soundfile.write(folder / "audio" / clip.filename, np.zeros(RATE), RATE)
        after, computed = prepared(folder)
        assert computed == 45
        assert after.digest != before.digest
        assert (after.logmel[4] < np.log(1.1e-5)).all()

    @pytest.mark.parametrize("name", ["logmel.npy", "moments.npy", "manifest.json"])
    @pytest.mark.parametrize("damage", ["gone", "cut", "empty"])
    def test_damaged_cache_is_made_again(self, tiny_folder: Path, own_cache: Path, name: str, damage: str) -> None:
        before, _ = prepared(tiny_folder)
        expected = before.logmel.copy()
        path = before.path / name
        content = path.read_bytes()
        path.unlink()
        if damage != "gone":
            path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
        after, computed = prepared(tiny_folder)
        assert computed == 45
        np.testing.assert_array_equal(after.logmel, expected)

    def test_leftovers_of_a_killed_process_are_removed(self, tiny_folder: Path, own_cache: Path) -> None:
        key = prepared(tiny_folder)[0].path
        leftover = key.with_name(f"{key.name}.abc.partial")
        leftover.mkdir()
        (key / "manifest.json").unlink()
        prepared(tiny_folder)
        assert not leftover.exists()

    def test_interruption_leaves_nothing(self, tiny_folder: Path, own_cache: Path) -> None:
        def interrupt(done: int, total: int) -> None:
            if done == 20:
                raise KeyboardInterrupt

        n_threads = torch.get_num_threads()
        with pytest.raises(KeyboardInterrupt):
            prepare(open_dataset(str(tiny_folder)), SMALL, progress=interrupt)
        assert nothing_half_done()
        assert torch.get_num_threads() == n_threads
        assert prepared(tiny_folder)[1] == 45

    def test_two_processes_share_the_work(self, tiny_folder: Path, own_cache: Path) -> None:
        code = (
            "import sys; from trainers.datasets import open_dataset; from trainers.features import prepare; n = []\n"
            "f = prepare(open_dataset(sys.argv[1]), progress=lambda done, total: n.append(done))\n"
            "print(len(n), f.digest, float(f.logmel.astype('f8').sum()))"
        )
        command = [sys.executable, "-c", code, str(tiny_folder)]
        root = Path(__file__).parents[1]
        running = [subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = [process.communicate(timeout=120)[0].split() for process in running]
        assert sorted(int(computed) for computed, *_ in said) == [0, 45]
        assert said[0][1:] == said[1][1:]

    def test_bad_files_are_reported_together_and_nothing_is_kept(
        self, make_folder: Callable[..., Path], own_cache: Path
    ) -> None:
        folder = make_folder()
        clips = open_dataset(str(folder)).clips
        for clip in (clips[3], clips[30]):
            soundfile.write(folder / "audio" / clip.filename, np.full(RATE, np.nan), RATE, subtype="FLOAT")
        with pytest.raises(
            UserError, match="2 of 45 audio files cannot be used: 2 with NaN or infinite samples"
        ) as error:
            prepared(folder)
        assert clips[3].filename in str(error.value)
        assert clips[30].filename in str(error.value)
        assert [path.suffix for path in own_cache.iterdir()] == [".lock"]

    def test_full_disk_is_said_and_leaves_nothing(self, tiny_folder: Path, own_cache: Path) -> None:
        code = (
            "import resource, sys; from search_space.errors import UserError; from trainers.datasets import open_dataset\n"
            "from trainers.features import prepare; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try: prepare(open_dataset(sys.argv[1]))\n"
            "except UserError as error: print(error)"
        )
        command = [sys.executable, "-c", code, str(tiny_folder)]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, check=True)
        assert "cannot be written under" in done.stdout
        assert "DSSDN_CACHE" in done.stdout
        assert [path.suffix for path in own_cache.iterdir()] == [".lock"]

    def test_too_little_room_is_said_before_the_work(
        self, tiny_folder: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 1000})())
        with pytest.raises(UserError, match=r"the features need 0 MB in .* name another folder"):
            prepared(tiny_folder)

    def test_folder_that_cannot_be_made(
        self, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("DSSDN_CACHE", str(tmp_path / "file"))
        with pytest.raises(UserError, match="the features cannot be written under"):
            prepared(tiny_folder)


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

    def test_manifest_says_what_is_in_the_folder(self, tiny_folder: Path) -> None:
        manifest = json.loads((prepared(tiny_folder)[0].path / "manifest.json").read_text())
        assert manifest["dataset"] == tiny_folder.name
        assert manifest["front_end"]["n_mels"] == 16
