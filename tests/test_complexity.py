"""What is counted: against hand arithmetic, the paper's tables, the built model, fvcore and torchinfo."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchinfo
from test_contract import FAMILY, fvcores
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from search_space import NETWORKS as PAPER_NETWORKS
from search_space import PRESETS, build_model, count, get_space, resolve
from search_space.blocks import plain
from search_space.complexity import CONVENTIONS, Maps, count_module, count_network, parse_input
from search_space.errors import UserError
from search_space.limits import LIMITS, get_limits, usage

PAPER = {  # DSSDN (arXiv 2405.03567), Tables 1 and 2, params and MACs; 0.078 M for Small is its text's
    "dssdn-large": (0.11e6, 0.66e9),
    "dssdn-middle": (0.11e6, 0.61e9),
    "dssdn-small": (0.078e6, 0.56e9),
    "dl-o": (0.38e6, 2.45e9),
    "dl-b": (0.15e6, 14.12e9),
}


@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("cell", ["params", "macs"])
def test_every_printed_cell_is_within_six_per_cent(name, cell):
    cost = count(PAPER_NETWORKS[name], (431, 256), n_classes=10)
    assert getattr(cost, cell) == pytest.approx(PAPER[name][cell == "macs"], rel=0.06)


def test_the_networks_of_the_paper_share_stem_widths_and_head():
    shared = {(n.stem, tuple(b.out_channels for b in n.blocks), n.head, n.tapped) for n in PAPER_NETWORKS.values()}
    assert len(shared) == 1
    pooled, printed = PAPER_NETWORKS["dl-b-pooled"], PAPER_NETWORKS["dl-b"]
    assert count(pooled, (431, 256)).params == count(printed, (431, 256)).params
    assert count(pooled, (431, 256)).macs < count(printed, (431, 256)).macs / 6


def test_a_small_network_by_hand():
    cost = count(resolve("dssdn_c4-6_r0.5_sc_h8"), (6, 4), n_classes=3)
    whole, heavy, light = 6 * 4, 6 * 2, 6 * 2  # positions
    table = {  # params, macs
        "stem.conv": (9 * 4, 9 * 4 * whole),
        "stem.norm": (2 * 4, 0),
        "blocks.0.first.operator.pointwise": (4 * 4, 4 * 4 * heavy),
        "blocks.0.first.operator.cross": (6 * 4, 6 * 4 * heavy),
        "blocks.0.first.norm": (2 * 4, 0),
        "blocks.0.second.operator.pointwise": (4 * 4, 4 * 4 * heavy),
        "blocks.0.second.operator.cross": (6 * 4, 6 * 4 * heavy),
        "blocks.0.second.norm": (2 * 4, 0),
        "blocks.0.third.operator.pointwise": (4 * 2, 4 * 2 * heavy),
        "blocks.0.third.operator.cross": (6 * 2, 6 * 2 * heavy),
        "blocks.0.third.norm": (2 * 2, 0),
        "blocks.0.distil_input": (4 * 2 + 2, 4 * 2 * heavy),
        "blocks.0.distil_first": (4 * 2 + 2, 4 * 2 * heavy),
        "blocks.0.fuse": (6 * 6 + 6, 6 * 6 * heavy),
        "blocks.0.light": (4 * 6 + 6, 4 * 6 * light),
        "blocks.0.attention": (3, 3 * 6),
        "blocks.0.norm": (2 * 6, 0),
        "blocks.0.pool": (0, 0),
        "head.hidden": (6 * 8 + 8, 6 * 8),
        "head.classes": (8 * 3 + 3, 8 * 3),
    }
    assert {row.name: (row.params, row.macs) for row in cost.layers} == table
    assert (cost.params, cost.macs) == (354, 3066)
    norms = 2 * 4 * whole + (2 * 4 + 2 * 4 + 2 * 2) * heavy + 2 * 6 * whole
    assert cost.macs_by["fvcore"] == 3066 + norms
    biases = (2 + 2 + 6) * heavy + 6 * light + 8 + 3
    assert cost.macs_by["dcase"] == 3066 + biases + 2 * (4 + 4 + 4 + 2 + 6)
    # Largest where both parts and the map they are spliced into are alive, the block's input no longer.
    assert cost.peak_activations == 2 * 6 * whole
    assert cost.receptive_field == (6, 4)  # of 3 + 3 * 2 + 1, all there is
    assert (cost.param_bytes(), cost.param_bytes("float16"), cost.param_bytes("int8")) == (1416, 708, 354)
    assert cost.peak_activation_bytes("float16") == 4 * 6 * whole
    with pytest.raises(UserError, match=r"unknown type of number 'float8'; .*known:"):
        cost.param_bytes("float8")


@pytest.mark.parametrize("network", FAMILY.values(), ids=FAMILY)
def test_each_row_is_a_module_of_the_built_model(network):
    model, cost = plain(build_model(network, n_classes=7)), count(resolve(network), (44, 64), n_classes=7)
    for row in cost.layers:
        assert row.params == sum(p.numel() for p in model.get_submodule(row.name).parameters()), row.name
    assert cost.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("network", FAMILY.values(), ids=FAMILY)
@pytest.mark.parametrize("size", [(9, 7), (1, 1)], ids="{0[0]}x{0[1]}".format)
def test_three_conventions_of_the_family_at_inputs_of_a_few_bins(network, size):
    model, cost = build_model(network, n_classes=7).eval(), count(resolve(network), size, n_classes=7)
    traced = count_module(model, (1, *size))
    assert (traced.params, traced.macs, traced.macs_by) == (cost.params, cost.macs, cost.macs_by)
    assert (traced.peak_activations, traced.receptive_field) == (cost.peak_activations, cost.receptive_field)
    assert tuple(cost.macs_by) == CONVENTIONS
    assert (cost.macs, cost.macs_by["fvcore"]) == fvcores(model, size)
    official = torchinfo.summary(plain(model), (1, 1, *size), verbose=0, device="cpu")
    assert (cost.macs_by["dcase"], cost.params) == (official.total_mult_adds, official.total_params)


@pytest.mark.parametrize("name", PAPER_NETWORKS)
def test_the_official_counting_of_the_papers_networks_at_their_full_input(name):
    """On the meta device, so that dl-b, which pools nothing, is as quick as the others."""
    cost = count(PAPER_NETWORKS[name], (431, 256))
    with torch.device("meta"):
        model = plain(build_model(name)).eval()
    official = torchinfo.summary(model, input_data=torch.zeros(1, 1, 431, 256, device="meta"), verbose=0)
    assert (cost.macs_by["dcase"], cost.params) == (official.total_mult_adds, official.total_params)


@pytest.mark.parametrize("name", PRESETS)
def test_fvcores_counting_of_the_presets_at_their_full_input(name):
    cost = count(PRESETS[name], (431, 256))
    assert (cost.macs, cost.macs_by["fvcore"]) == fvcores(build_model(name), (431, 256))


def test_spec_and_trace_agree_all_over_the_wide_space():
    space, rng = get_space("dssdn-wide"), np.random.default_rng(0)
    for _ in range(60):
        architecture = space.sample(lambda _, options: rng.choice(options))
        size = (int(rng.integers(1, 70)), int(rng.integers(1, 70)))
        cost, traced = count(architecture, size, 7), count_module(build_model(architecture, 7), (1, *size))
        assert traced._replace(layers=()) == cost._replace(layers=()), (str(architecture), size)


def test_counting_a_module_leaves_it_as_it_was():
    model = build_model("dssdn_c4-6_r0.5_sc_h8")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    cost = count_module(model, (1, 8, 8))
    assert model.training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())
    assert sum(row.params for row in cost.layers) == cost.params
    assert sum(row.macs for row in cost.layers) == cost.macs


class TestByName:
    @pytest.mark.parametrize("name", ["resnet34", "sp4asc", "dsmn-1", "dssdn-small"])
    def test_a_count_draws_nothing_and_leaves_torchs_generator_alone(self, name):
        torch.manual_seed(0)
        before = torch.random.get_rng_state()
        cost = count_network(name, (44, 64), 7)
        assert torch.equal(torch.random.get_rng_state(), before)
        assert cost == count(name, (44, 64), 7)

    @pytest.mark.parametrize("network", ["dssdn-large", "dssdn_c8-9_r0.5_sc_h8", "sp4asc", resolve("dssdn-large")])
    @pytest.mark.parametrize(
        ("input", "n_classes", "message"),
        [
            ((44, 64), 0, "at least 2 classes, a whole number; got 0; try 10"),
            ((44, 64), -1, "at least 2 classes"),
            ((44, 64), 1.5, "at least 2 classes, a whole number; got 1.5"),
            ((44, 64), None, "at least 2 classes, a whole number; got None"),
            ((44, 64), True, "at least 2 classes, a whole number; got True"),
            ((-5, 3), 10, "at least 1 of its frames, a whole number; got -5"),
            ((0, 0), 10, "at least 1 of its frames"),
            ((44, 0), 10, "at least 1 of its mels"),
            ((44, 64.5), 10, "at least 1 of its mels, a whole number; got 64.5"),
        ],
    )
    def test_sizes_that_cannot_be_are_explained(self, network, input, n_classes, message):
        for ask in (count, count_network):
            with pytest.raises(UserError, match=message):
                ask(network, input, n_classes)
        if "frames" not in message:
            with pytest.raises(UserError, match=message):
                build_model(network, n_classes, input[1])


def test_a_search_can_count_thousands():
    def milliseconds():
        start = time.perf_counter()
        count(PRESETS["dssdn-large"], (431, 256))
        return 1e3 * (time.perf_counter() - start)

    assert min(milliseconds() for _ in range(50)) < 1


def test_counting_and_sampling_need_no_torch():
    code = """
import sys
import search_space
import search_space.architecture, search_space.space, search_space.presets, search_space.complexity
import search_space.operators, search_space.describe, search_space.limits
space = search_space.get_space()
space.sample(lambda _, options: options[-1]), space.largest((431, 256), 10), space.digest
assert search_space.count(search_space.NETWORKS["dl-o"], (431, 256)).peak_activations
assert "torch" not in sys.modules and "fvcore" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_an_input_is_frames_times_mels():
    assert parse_input("431x256") == (431, 256)
    for text in ("431", "431x", "0x256", "431x256x1", "-1x4", "4.5x4", ""):
        with pytest.raises(UserError, match=r"frames x mels.*write e\.g\. 431x256"):
            parse_input(text)


def torchinfo_totals(module, shape):
    official = torchinfo.summary(module, (1, *shape), verbose=0, device="cpu")
    return official.total_mult_adds, official.total_params


def agrees_with_torchinfo(module, shape):
    """The cost of a module, once it has been found that its official counting is torchinfo's."""
    cost = count_module(module, shape)
    assert (cost.macs_by["dcase"], cost.params) == torchinfo_totals(module, shape)
    return cost


class Pointwise(nn.Conv2d):
    """A convolution that does not say so in its name."""


class Forward(nn.Module):
    """A module whose forward is given."""

    def __init__(self, forward, **layers):
        super().__init__()
        self.run = forward
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.run(self, x)


class TestTraps:
    """Where two counts of one network part. Measured figures: torchinfo 1.8.0 and fvcore 0.1.5 on (1, 16, 8, 10)."""

    shape = (16, 8, 10)

    @pytest.mark.parametrize(
        ("module", "ours", "fvcore", "dcase"),
        [
            (nn.Conv2d(16, 16, 3, padding=1, bias=False), 184_320, 184_320, 184_320),
            (nn.Conv2d(16, 16, 3, padding=1), 184_320, 184_320, 185_600),
            (nn.BatchNorm2d(16), 0, 2_560, 32),
            (nn.ReLU(), 0, 0, 0),
            (nn.AvgPool2d(2), 0, 0, 0),
            (nn.AdaptiveAvgPool2d(1), 0, 1_280, 0),
            (nn.Linear(10, 20), 25_600, 25_600, 220),  # on a sequence torchinfo counts one position
            (Forward(lambda _, x: x + 2 * x), 0, 0, 0),
            (Pointwise(16, 16, 1, bias=False), 20_480, 20_480, 256),  # torchinfo goes by the class's name
        ],
        ids=["conv", "bias", "norm", "relu", "pool", "adaptive", "linear", "functional", "name"],
    )  # fmt: skip
    def test_one_layer(self, module, ours, fvcore, dcase):
        cost = agrees_with_torchinfo(module.eval(), self.shape)
        assert cost.macs_by == {"conv+linear": ours, "fvcore": fvcore, "dcase": dcase}

    @pytest.mark.parametrize("affine", [True, False])
    def test_other_norms_are_fvcores(self, affine):
        from fvcore.nn import FlopCountAnalysis

        layers = (
            nn.BatchNorm2d(16, affine=affine),
            nn.GroupNorm(4, 16, affine=affine),
            nn.InstanceNorm2d(16, affine=affine),
        )
        for layer in (*layers, nn.LayerNorm(10, elementwise_affine=affine)):
            flops = FlopCountAnalysis(layer.eval(), torch.zeros(1, *self.shape)).unsupported_ops_warnings(False)
            assert agrees_with_torchinfo(layer, self.shape).macs_by["fvcore"] == flops.total() > 0

    def test_a_convolution_without_a_layer_is_seen_by_ours_and_not_by_the_official_counting(self):
        weight = nn.Parameter(torch.zeros(16, 16, 3, 3))
        module = Forward(lambda self, x: nn.functional.conv2d(x, self.kernel, padding=1), kernel=weight)
        cost = agrees_with_torchinfo(module, self.shape)
        assert cost.macs_by == {"conv+linear": 184_320, "fvcore": 184_320, "dcase": 0}
        assert sum(row.macs for row in cost.layers) == 184_320

    def test_what_is_fused_would_be_missed(self):
        operator, shape = resolve("dssdn_c8-8_r0.5_sc_h8").blocks[0].module.build(8, 8), (8, 16, 16)
        assert torchinfo_totals(operator, shape)[0] == count_module(operator, shape).macs_by["dcase"] - 6 * 8 * 256
        assert torchinfo_totals(plain(operator), shape)[0] == count_module(operator, shape).macs_by["dcase"]
        model, shape = build_model("dssdn_c8-8_r0.5_sc_h8"), (1, 16, 16)
        assert torchinfo_totals(model, shape)[0] < count_module(model, shape).macs_by["dcase"]
        assert torchinfo_totals(plain(model), shape)[0] == count_module(model, shape).macs_by["dcase"]

    def test_a_dead_layer_weighs_and_does_nothing(self):
        used, dead = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 8, 3)
        cost = agrees_with_torchinfo(Forward(lambda self, x: self.used(x), used=used, dead=dead), self.shape)
        assert cost.params == (16 + 1) * 4 + (9 * 16 + 1) * 8
        assert cost.macs == 16 * 4 * 80
        assert [(row.name, row.kind, row.macs) for row in cost.layers] == [
            ("used", "Conv2d", 5120),
            ("dead", "never run", 0),
        ]

    def test_a_layer_used_twice_weighs_once_and_works_twice(self):
        module = Forward(lambda self, x: self.layer(self.layer(x)), layer=nn.Conv2d(16, 16, 1))
        cost = agrees_with_torchinfo(module, self.shape)
        assert (cost.params, cost.macs, cost.macs_by["dcase"]) == (272, 2 * 20_480, 2 * (20_480 + 1_280))
        assert len(cost.layers) == 1

    def test_fusing_batch_norm_saves_params_and_raises_the_official_macs(self):
        torch.manual_seed(0)
        pairs = [(nn.Conv2d(c, d, 3, padding=1, bias=False), nn.BatchNorm2d(d)) for c, d in ((1, 8), (8, 16), (16, 16))]
        trained = nn.Sequential(*(layer for pair in pairs for layer in (*pair, nn.ReLU()))).eval()
        fused = nn.Sequential(*(layer for pair in pairs for layer in (fuse_conv_bn_eval(*pair), nn.ReLU()))).eval()
        shape = (1, 64, 64)
        torch.testing.assert_close(fused(torch.ones(1, *shape)), trained(torch.ones(1, *shape)))
        before, after = agrees_with_torchinfo(trained, shape), agrees_with_torchinfo(fused, shape)
        assert after.params == before.params - 8 - 16 - 16
        assert after.macs == before.macs
        assert 1.01 < after.macs_by["dcase"] / before.macs_by["dcase"] < 1.03
        assert after.macs_by["fvcore"] < before.macs_by["fvcore"]

    def test_one_frame_more_is_another_count(self):
        costs = [count(PRESETS["dssdn-small"], (frames, 256)) for frames in (64, 65)]
        shapes = [(1, frames, 256) for frames in (64, 65)]
        assert [c.macs_by["dcase"] for c in costs] == [
            torchinfo_totals(plain(build_model("dssdn-small")), shape)[0] for shape in shapes
        ]
        assert costs[0].params == costs[1].params
        assert costs[0].macs_by["dcase"] < costs[1].macs_by["dcase"]

    def test_recurrent_layers_are_the_official_countings_own(self):
        module = Forward(lambda self, x: self.gru(x.mean(3).transpose(1, 2))[0], gru=nn.GRU(16, 64, batch_first=True))
        assert agrees_with_torchinfo(module, self.shape).macs_by["dcase"] == 125_952


class TestPeak:
    """The largest sum of maps alive at once, in values."""

    def test_by_hand(self):
        maps = Maps()
        x = maps.write(4)
        y = maps.write(8, x)
        z = maps.write(2, y)
        maps.write(3, z, x)  # x is kept all the way
        assert maps.peak() == 4 + 8 + 2

    def test_what_nobody_reads_is_alive_while_it_is_written(self):
        maps = Maps()
        x = maps.write(1)
        maps.write(10, x)
        maps.write(2, x)
        assert maps.peak() == 11

    @pytest.mark.parametrize(
        ("forward", "maps"),
        [
            (lambda m, x: m.c(m.a(x)), 2),  # one in, one out
            (lambda m, x: m.b(m.a(x).relu()), 2),  # an activation overwrites
            (lambda m, x: x + m.b(m.a(x)), 3),  # a residual input is kept
            (lambda m, x: m.b(m.a(x)) + x, 3),
            (lambda m, x: torch.cat([m.a(x), m.b(x)], 1), 4),  # two branches and the map they become, twice as large
            (lambda m, x: m.a(x) + m.b(x), 3),  # the sum overwrites a branch
            (lambda m, x: torch.cat([m.part(x[:, :4]), x[:, 4:]], 1), 2.5),  # a slice is no copy
            (lambda m, x: m.a(x) * x.mean((2, 3), keepdim=True), 2 + 1 / 80),
        ],
        ids=["chain", "activation", "residual", "residual-turned", "concat", "sum", "slice", "scale"],
    )  # fmt: skip
    def test_of_a_module(self, forward, maps):
        layers = {name: nn.Conv2d(8, 8, 1) for name in "abc"}
        module = Forward(forward, part=nn.Conv2d(4, 4, 1), **layers)
        assert count_module(module, (8, 8, 10)).peak_activations == pytest.approx(maps * 8 * 80)

    def test_of_the_ways_to_merge(self):
        """Two halves and their splice; two halves added in place, beside the input of the second; half the channels of each."""
        networks = [f"dssdn_c8-32_r0.5_conv_h8{end}" for end in ("", "_add", "_concat")]
        peaks = [count(resolve(network), (64, 64)).peak_activations for network in networks]
        assert peaks == [channels * 64 * 64 for channels in (2 * 32, 32 + 8, 32)]


class TestReceptiveField:
    def test_by_hand(self):
        """3 from the stem; each of three operators adds 2, each pool 1, in steps of 1, then of 2."""
        assert count(resolve("dssdn_c8-8-8_r0.5_sc_h8"), (200, 200)).receptive_field == (24, 24)
        assert count(resolve("dssdn_c8-8-8_r0.5_sc.d2_h8"), (200, 200)).receptive_field == (3 + 12 + 1 + 24 + 2,) * 2
        assert count(resolve("dssdn_c8-8-8_r0.5_sc_h8_p2x1"), (200, 200)).receptive_field == (24, 3 + 6 + 6)
        assert count(resolve("dssdn_c8-8-8_r1_conv_h8_plain"), (200, 200)).receptive_field == (3 + 2 + 1 + 4 + 2,) * 2

    def test_is_what_a_gradient_reaches(self):
        model = build_model("dssdn_c4-4-4_r1_spc.p0.5_h4_eca0").double().eval()
        x = torch.randn(1, 1, 64, 64, dtype=torch.float64, requires_grad=True)
        y = model.stem(x)
        for block in model.blocks:
            y = block(y)
        y[0, :, 8, 8].sum().backward()
        reached = x.grad[0, 0] != 0
        frames, mels = reached.any(1).nonzero().flatten(), reached.any(0).nonzero().flatten()
        extent = (int(frames.max() - frames.min()) + 1, int(mels.max() - mels.min()) + 1)
        assert extent == count(model.architecture, (64, 64)).receptive_field

    def test_of_strides_and_pools(self):
        layers = (
            nn.Conv2d(1, 2, 5, stride=2),
            nn.MaxPool2d(3, 2),
            nn.Conv2d(2, 2, (3, 1), dilation=2),
            nn.AdaptiveAvgPool2d(1),
        )
        assert count_module(nn.Sequential(*layers), (1, 99, 99)).receptive_field == (5 + 2 * 2 + 4 * 4, 5 + 2 * 2)


class TestLimits:
    def test_dcase_2024(self):
        limits = get_limits("dcase2024")
        assert (limits.param_bytes, limits.macs, limits.seconds) == (128_000, 30_000_000, 1.0)
        assert (limits.convention, limits.dtype) == ("dcase", "float16")

    def test_shares_are_of_bytes_and_of_official_macs(self):
        cost, limits = count(PRESETS["dssdn-small"], (44, 256)), LIMITS["dcase2024"]
        assert usage(cost, limits) == {
            "param_bytes": 2 * cost.params / 128_000,
            "macs": cost.macs_by["dcase"] / 30_000_000,
        }

    def test_unknown_limits_are_refused(self):
        with pytest.raises(UserError, match=r"unknown limits 'x'; known: \['dcase2024'\]"):
            get_limits("x")
