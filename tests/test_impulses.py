"""Device impulse responses: what they do to log-mels against true convolution, to which clips, and which files are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from search_space.errors import UserError
from trainers.config import short
from trainers.datasets import Clip
from trainers.features import FrontEnd, logmel
from trainers.impulses import Impulses, folder_power, generated_power, log_gains, open_impulses, through
from trainers.inputs import Inputs, Split
from trainers.teaching import folder_digest, sealed

FRONT_END = FrontEnd()
RATE = FRONT_END.sample_rate


def make_response(seed: int, samples: int = 400) -> np.ndarray:
    """A short response that colours: a click and a decaying tail."""
    rng = np.random.default_rng(seed)
    response_N = 0.3 * rng.standard_normal(samples) * np.exp(-np.arange(samples) / (samples / 8))
    response_N[0] = 1
    return response_N


def write(folder: Path, *responses: np.ndarray, rate: int = RATE) -> Path:
    folder.mkdir()
    for number, response_N in enumerate(responses):
        soundfile.write(folder / f"{number}.wav", 0.5 * response_N, rate, subtype="FLOAT")
    return folder


def error(response_N: np.ndarray, folder: Path) -> tuple[float, float]:
    """Of noise: the mean difference between true convolution's log-mel and ours, and how far the response moves it. Both in natural log
    power, each without its mean over the mel bins, which is the level."""
    noise_N = np.random.default_rng(1).standard_normal(3 * RATE)
    clean_TF, convolved_TF = (
        logmel(torch.from_numpy(wave_N.astype(np.float32)), FRONT_END)
        for wave_N in (noise_N, np.convolve(noise_N, 0.5 * response_N)[: len(noise_N)])
    )
    gain_RF = log_gains(folder_power(write(folder, response_N), FRONT_END), FRONT_END)
    ours_TF = through(clean_TF[None], gain_RF, FRONT_END.log_floor)[0]
    apart_F, moved_F = ((convolved_TF - of).mean(0) for of in (ours_TF, clean_TF))
    return float((apart_F - apart_F.mean()).abs().mean()), float((moved_F - moved_F.mean()).abs().mean())


class TestAgainstConvolution:
    def test_a_response_shorter_than_a_window_agrees(self, tmp_path: Path) -> None:
        apart, moved = error(make_response(0), tmp_path / "short")
        assert moved > 0.2
        assert apart < 0.15 * moved

    def test_a_response_of_several_windows_still_colours_alike(self, tmp_path: Path) -> None:
        """What it smears over later frames is the same everywhere in steady noise."""
        apart, moved = error(make_response(0, 5 * FRONT_END.n_fft), tmp_path / "long")
        assert apart < 0.5 * moved

    def test_a_click_changes_nothing(self, tmp_path: Path) -> None:
        click_N = np.zeros(100)
        click_N[3] = 1
        gain_RF = log_gains(folder_power(write(tmp_path / "click", click_N), FRONT_END), FRONT_END)
        assert gain_RF.abs().max() < 1e-4

    def test_silence_stays_silence(self) -> None:
        floor = float(np.log(FRONT_END.log_floor))
        gain = log_gains(generated_power(FRONT_END), FRONT_END)[:1]
        assert through(torch.full((1, 4, 256), floor), gain, FRONT_END.log_floor).numpy() == pytest.approx(
            floor, abs=1e-4
        )


def make_inputs(recorders: str, mels: int = 256) -> Inputs:
    clips = tuple(Clip("x.wav", "a", "g", "train", recorder=name.strip()) for name in recorders)
    logmels = torch.randn(len(clips), 5, mels, generator=torch.Generator().manual_seed(0)).half()
    split = Split(logmels, torch.zeros(len(clips), dtype=torch.int64), clips)
    return Inputs({"train": split}, torch.full((mels,), -3.0), torch.full((mels,), 2.0), ("a", "b"))


def changed(impulses: Impulses, inputs: Inputs, probability: float, seed: int = 0) -> list[bool]:
    index = torch.arange(len(inputs.splits["train"]))
    before = inputs.normalise(inputs.splits["train"].batch(index, torch.device("cpu")))
    after = impulses.of(index)(before, probability, torch.Generator().manual_seed(seed))
    assert after.isfinite().all()
    return [not torch.equal(a, b) for a, b in zip(before, after, strict=True)]


class TestWhichClips:
    def test_those_of_the_commonest_recorder(self) -> None:
        inputs = make_inputs("aabac")
        assert changed(open_impulses("generated", inputs, FRONT_END), inputs, 1.0) == [True, True, False, True, False]

    def test_all_where_no_recorder_is_named(self) -> None:
        inputs = make_inputs("    ")
        assert changed(open_impulses("generated", inputs, FRONT_END), inputs, 1.0) == [True] * 4

    def test_the_share_that_the_probability_says(self) -> None:
        inputs = make_inputs(" " * 400)
        impulses = open_impulses("generated", inputs, FRONT_END)
        assert not any(changed(impulses, inputs, 0.0))
        assert np.mean(changed(impulses, inputs, 0.6)) == pytest.approx(0.6, abs=0.08)

    def test_a_smaller_training_input_has_as_many_gains(self) -> None:
        inputs = make_inputs("  ", mels=64)
        impulses = open_impulses("generated", inputs, FRONT_END)
        assert impulses.log_gain_RF.shape == (66, 64)
        assert all(changed(impulses, inputs, 1.0))


class TestGenerated:
    def test_they_differ_as_devices_do_and_keep_the_level(self) -> None:
        gain_RF = log_gains(generated_power(FRONT_END), FRONT_END)
        assert gain_RF.mean(1).numpy() == pytest.approx(0, abs=1e-5)
        spread_db = float((gain_RF.std(1) * 10 / np.log(10)).mean())
        assert 2 < spread_db < 12

    def test_they_are_always_the_same(self) -> None:
        assert np.array_equal(generated_power(FRONT_END), generated_power(FRONT_END))


class TestFolders:
    def test_responses_of_another_rate_are_the_same_device(self, tmp_path: Path) -> None:
        """Resampled to the front end's rate; compared where both have sound."""
        gains = [
            log_gains(folder_power(write(tmp_path / f"{rate}", response, rate=rate), FRONT_END), FRONT_END)
            for rate, response in ((RATE, np.repeat([1.0, 0.5, 0.25], 2) / 2), (RATE // 2, np.array([1.0, 0.5, 0.25])))
        ]
        assert (gains[0] - gains[1])[0, :100].std() < 0.1

    def test_a_folder_without_any(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no impulse responses"):
            sealed(dataclasses.replace(short(), impulses=str(tmp_path)))

    def test_a_silent_file(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="silent"):
            folder_power(write(tmp_path / "silent", np.zeros(100)), FRONT_END)

    def test_their_digest_follows_names_and_content(self, tmp_path: Path) -> None:
        folder = write(tmp_path / "own", make_response(0), make_response(1))
        first = folder_digest(str(folder))
        assert dict(sealed(dataclasses.replace(short(), impulses=str(folder))).digests) == {str(folder): first}
        (folder / "1.wav").rename(folder / "2.wav")
        assert folder_digest(str(folder)) != first
