"""Scores without training: in closed form on tiny networks, on the family's, and the command beside params and MACs."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats
from torch import nn

from search_space.architecture import Architecture
from search_space.complexity import count
from search_space.errors import UserError
from studies import proxies
from trainers.loop import seeded_model
from trainers.proxies import naswot, synflow

NETWORKS = (
    "dssdn_c8-12_r0.5_sc_h8",
    "dssdn_c8-12_r0.75_osc.m4_h8",
    "dssdn_c8-12_r1_spc.p0.5_h8",
    "dssdn_c8-12-12_r1_conv_h8_plain",
)


def untouched(model: nn.Module, score: float) -> None:
    """The model still has its mode, its batch norms and its signs, and no hook."""
    assert math.isfinite(score)
    assert model.training
    assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert any(bool((parameter < 0).any()) for parameter in model.parameters())
    assert not any(module._forward_pre_hooks for module in model.modules())


class TestSynflow:
    def test_of_a_chain_is_its_flow_once_a_layer(self) -> None:
        """R = 1' |V| |W| 1 over one clip of two ones: |1| + |-2| = 3, |3| + |0.5| = 3.5 hidden; 2 * 3 + 1 * 3.5 = 9.5;
        two layers."""
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(inplace=True), nn.Linear(2, 1, bias=False)
        )
        model[1].weight.data = torch.tensor([[1.0, -2.0], [-3.0, 0.5]])
        model[3].weight.data = torch.tensor([[-2.0, 1.0]])
        assert synflow(model, (1, 2)) == pytest.approx(math.log10(2 * 9.5))
        assert model[1].weight.tolist() == [[1.0, -2.0], [-3.0, 0.5]]

    def test_batch_norm_is_left_out_and_biases_do_not_count(self) -> None:
        """A 1x1 of weight -3 and bias -1 on a map of four ones: each position 3 + 1, R their sum 16; the weight's share
        is 12."""
        conv, norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)
        conv.weight.data.fill_(-3)
        conv.bias.data.fill_(-1)  # type: ignore[union-attr]
        norm.weight.data.fill_(7)
        norm.running_var.fill_(100)  # type: ignore[union-attr]
        assert synflow(nn.Sequential(conv, norm), (2, 2)) == pytest.approx(math.log10(12))

    @pytest.mark.parametrize("network", NETWORKS)
    def test_of_the_family_is_how_the_flow_grows_with_all_weights(self, network: str) -> None:
        """The sum of w dR/dw is the derivative of R by a common factor of the weights, here from two values of R. A
        batch norm that has seen nothing divides by sqrt(1 + 1e-5) in eval mode, which is as good as nothing."""
        model = seeded_model(network, 5, 0)

        def flow(factor: float) -> float:
            grown = copy.deepcopy(model).eval().double()
            with torch.no_grad():
                for name, parameter in grown.named_parameters():
                    scaled = parameter.ndim > 1  # weights; a batch norm's and all biases stay
                    parameter.copy_(parameter.abs() * (factor if scaled else 1))
                    assert scaled == (name.endswith(("weight", "along_time", "along_mel")) and "norm" not in name)
                return float(grown(torch.ones(1, 1, 16, 16, dtype=torch.float64)).sum())

        derivative = (flow(1 + 1e-4) - flow(1 - 1e-4)) / 2e-4
        assert synflow(model, (16, 16)) == pytest.approx(math.log10(derivative), abs=1e-3)
        untouched(model, synflow(model, (16, 16)))

    def test_without_flow_it_is_minus_infinite(self) -> None:
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        nn.init.zeros_(model[1].weight)  # type: ignore[arg-type]
        assert synflow(model, (2, 2)) == -math.inf


class TestNaswot:
    CLIPS = torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1], [1, 1, 1, -1]]).reshape(3, 1, 2, 2)

    def test_by_hand(self) -> None:
        """Of four ReLUs the clips have 2, 3 and 3 alike: det [[4, 2, 3], [2, 4, 3], [3, 3, 4]] = 12."""
        assert naswot(nn.Sequential(nn.Flatten(), nn.ReLU()), self.CLIPS) == pytest.approx(math.log(12))

    def test_layers_add_up(self) -> None:
        """A second layer that switches as the first does doubles the kernel: 2^3 times the determinant."""
        model = nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.ReLU())
        assert naswot(model, self.CLIPS) == pytest.approx(math.log(8 * 12))

    def test_clips_that_are_the_same_to_every_relu_are_told_apart_by_none(self) -> None:
        clips = torch.cat([self.CLIPS, 5 * self.CLIPS[:1]])
        assert naswot(nn.Sequential(nn.Flatten(), nn.ReLU()), clips) == -math.inf

    @pytest.mark.parametrize("network", NETWORKS)
    def test_every_relu_of_the_family_is_seen(self, network: str) -> None:
        """Of a single clip the kernel is the number of ReLUs: one behind every batch norm, and the head's."""
        architecture = Architecture.parse(network)
        layers = count(architecture, (24, 16), 5).layers
        number = sum(math.prod(row.shape) for row in layers if row.kind == "batch norm") + architecture.head
        model = seeded_model(network, 5, 0)
        score = naswot(model, torch.randn(1, 1, 24, 16, generator=torch.Generator().manual_seed(0)))
        assert math.exp(score) == pytest.approx(number)
        untouched(model, score)

    def test_running_statistics_stay(self) -> None:
        model = seeded_model(NETWORKS[0], 5, 0)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        naswot(model, torch.randn(4, 1, 16, 16))
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


class TestCommand:
    def test_proxies_stand_beside_params_and_macs(self, own_study: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert proxies.main(["--study", "tiny", "--runs", str(own_study), "--json"]) == 0
        report = json.loads(capsys.readouterr().out)
        assert [of["predictor"] for of in report["correlations"]] == ["synflow", "naswot", "params", "macs"]
        table = pd.read_csv(own_study / "tiny" / "proxies.csv")
        assert table["trial"].tolist() == [of["trial"] for of in report["networks"]] == [0, 1, 2, 3]
        for of in report["correlations"]:
            name = of["predictor"]
            expected = stats.kendalltau(table[name], table["val_accuracy"]).statistic
            assert (of["tau"] is None) == np.isnan(expected)
            assert (of["tau"] or 0.0) == pytest.approx(np.nan_to_num(expected))
            assert of["tau_with_params"] == pytest.approx(stats.kendalltau(table[name], table["params"]).statistic)
        first = table.iloc[0]
        model = seeded_model(first["architecture"], 3, 0, 16)
        assert first["synflow"] == pytest.approx(synflow(model, (16, 16)))
        assert not list((own_study / "tiny").glob("*/*/predictions-test.npz"))

        assert proxies.main(["--study", "tiny", "--runs", str(own_study)]) == 0
        said = " ".join(capsys.readouterr().out.split())
        for words in ("synflow", "naswot", "params alone", "MACs alone", "of 4 networks"):
            assert words in said

    @pytest.mark.parametrize(
        ("taus", "words"),
        [
            ((0.5, None, 0.5, 0.2), "neither proxy ranks these networks better"),
            ((0.6, 0.4, 0.5, 0.2), "synflow had a larger tau than params and MACs"),
            ((0.6, 0.7, 0.5, 0.2), "synflow and naswot had a larger tau"),
            ((0.1, 0.2, -0.5, None), "synflow and naswot had a larger tau"),
        ],
    )
    def test_it_is_read_against_the_plain_counts(self, taus: tuple[float | None, ...], words: str) -> None:
        assert words in proxies.reading(dict(zip(proxies.PREDICTORS, taus, strict=True)))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (("--networks", "3"), "--networks is at least 4, not 3"),
            (("--study", "other"), r"no study 'other' in .*; known: \['tiny'\]"),
            (("--device", "tpu"), "--device is auto, cpu, cuda or cuda:N, not 'tpu'"),
        ],
    )
    def test_bad_input_is_named(self, own_study: Path, options: tuple[str, ...], message: str) -> None:
        with pytest.raises(UserError, match=message):
            proxies.main(["--study", "tiny", "--runs", str(own_study), *options])
