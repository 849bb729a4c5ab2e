"""The benchmark of an epoch: what it reports, on any device."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks.epoch import main

GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_report(device: str, capsys: pytest.CaptureFixture[str]) -> None:
    network = "dssdn_c8-12_r0.5_sc_h8"
    arguments = ["--network", network, "--input", "32x32", "--clips", "24", "--batches", "8,12", "--device", device]
    assert main([*arguments, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(row["batch"], row["clips"], row["input"]) for row in report["cases"]] == [
        (8, 24, "32x32"),
        (12, 24, "32x32"),
    ]
    for row in report["cases"]:
        assert row["architecture"] == network
        assert row["precision"] in ("bfloat16", "float32")
        floor_s = max(row["memory_floor_s"], row["arithmetic_floor_s"])
        assert row["ratio_to_floor"] == pytest.approx(row["epoch_s"] / floor_s)
        assert (row["peak_bytes"] is not None) == (device == "cuda")
