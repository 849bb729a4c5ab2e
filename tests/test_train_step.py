"""The speed benchmarks: one tiny case each, the form of what they print, and the floors by hand."""

import json
import math

import pytest
import torch

from benchmarks import epoch, features, inference, train_step, trial
from benchmarks.speed import floors_ms, values_moved
from search_space import Architecture
from search_space.errors import UserError
from trainers.memory import kept_memory

TINY = "dssdn_c4-6_r0.5_sc_h8"
FIELDS = {
    "input", "architecture", "reference_ms", "ours_ms", "ratio", "memory_floor_ms", "arithmetic_floor_ms", "peak_bytes",
}  # fmt: skip


@pytest.mark.parametrize("benchmark", [train_step, inference], ids=["train_step", "inference"])
class TestReport:
    @pytest.mark.slow
    def test_one_case(self, benchmark, capsys):
        argv = ["--network", TINY, "--input", "16x8", "--batch", "2", "--rounds", "1", "--threads", "1", "--json"]
        assert benchmark.main(argv) == 0
        report = json.loads(capsys.readouterr().out)
        assert {"machine", "threads", "torch"} <= set(report)
        (row,) = report["cases"]
        assert set(row) >= FIELDS
        assert (row["input"], row["batch"], row["architecture"]) == ("16x8", 2, TINY)
        numbers = [value for value in row.values() if isinstance(value, float)]
        assert all(math.isfinite(value) and value > 0 for value in numbers)
        assert isinstance(row["peak_bytes"], int)
        assert row["peak_bytes"] > 0
        assert row["ratio"] == pytest.approx(row["reference_ms"] / row["ours_ms"])

    def test_what_cannot_be_is_refused(self, benchmark):
        with pytest.raises(UserError, match="--rounds is at least 1, not 0"):
            benchmark.main(["--rounds", "0"])


def test_sampled_networks_are_the_same_each_time_and_all_exist():
    networks = train_step.sampled(20)
    assert networks == train_step.sampled(20)
    assert len(set(networks)) == 20
    assert [str(Architecture.parse(network)) for network in networks] == networks


def test_values_moved_by_hand():
    """Stem 1 -> 4 on 8 x 4; the heavy half 8 x 2: 4 -> 4 -> 4 twice, 4 -> 2 -> 2, distilled 4 + 4 + 2 -> 6; the light half 4 -> 6."""
    architecture, half = Architecture.parse(TINY), 8 * 2
    read = 32 + half * ((4 + 4) + (4 + 4) + (4 + 2) + (4 + 4 + 2) + 4)
    written = 4 * 32 + half * ((4 + 4) + (4 + 4) + (2 + 2) + 6 + 6)
    assert values_moved(architecture, (8, 4), training=False) == read + written
    assert values_moved(architecture, (8, 4), training=True) == 3 * read + 2 * written - 32
    memory, arithmetic = floors_ms(architecture, (8, 4), torch.bfloat16, False, 2000.0, 1e3)
    assert memory == read + written
    assert arithmetic > 0


class TestKeptMemory:
    def test_computes_the_same_and_passes_errors_on(self):
        def fail():
            with kept_memory():
                raise OSError("disk full")

        with kept_memory():
            kept = torch.ones(3_000_000).cumsum(0)[-1]
        assert kept == 3_000_000
        with pytest.raises(OSError, match="disk full"):
            fail()


class TestOtherReports:
    """Of the benchmarks that have a form of their own."""

    def test_log_mels_beside_torchaudios(self, tiny_folder, capsys):
        assert features.main(["--data", str(tiny_folder), "--rounds", "1", "--workers", "1", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert report["clips"] == 45
        assert report["ratio"] == pytest.approx(report["reference_ms"] / report["ours_ms"])
        assert report["ratio_to_decoding"] == pytest.approx(report["decoding_ms"] / report["ours_ms"])
        frames, mels = (int(n) for n in report["log_mels"].split()[1].split("x"))
        assert report["bytes_a_clip"] >= 2 * frames * mels
        with pytest.raises(UserError, match="--hours is above 0"):
            features.main(["--hours", "0"])

    @pytest.mark.slow
    def test_a_whole_candidate(self, tiny_folder, capsys):
        assert trial.main(["--data", str(tiny_folder), "--networks", "0", "--budget", "32", "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        (row,) = report["cases"]
        assert (
            row["ratio"] == pytest.approx(row["reference_s"] / row["ours_s"]) == pytest.approx(report["ratio_median"])
        )
        assert min(row["reference_s"], row["ours_s"], row["steps_s"], row["peak_bytes"]) > 0
        assert (report["clips"], report["data"]["synthetic"]) == (32, False)
        with pytest.raises(UserError, match="--rounds at least 1"):
            trial.main(["--rounds", "0"])

    @pytest.mark.slow
    def test_an_epoch(self, capsys):
        argv = ["--network", TINY, "--input", "16x8", "--clips", "12", "--batches", "4,6", "--device", "cpu", "--json"]
        assert epoch.main(argv) == 0
        report = json.loads(capsys.readouterr().out)
        assert [(row["batch"], row["clips"]) for row in report["cases"]] == [(4, 12), (6, 12)]
        for row in report["cases"]:
            least = max(row["memory_floor_s"], row["arithmetic_floor_s"])
            assert row["ratio_to_floor"] == pytest.approx(row["epoch_s"] / least)
        with pytest.raises(UserError, match="--batches 4,x"):
            epoch.main(["--batches", "4,x"])
