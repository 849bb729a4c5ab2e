"""The family's networks: their blocks against the structure written plainly, small inputs, layouts, and the door by name."""

import pytest
import torch
from test_contract import FAMILY
from torch import nn

from search_space import NETWORKS as PAPER
from search_space import Architecture, build_model
from search_space.blocks import DistillationBlock
from search_space.comparators import COMPARATORS
from search_space.complexity import count_network, heavy_bins
from search_space.dsmn import two_channels
from search_space.errors import UserError
from search_space.presets import check_network

every_network = pytest.mark.parametrize("network", FAMILY.values(), ids=FAMILY)


def test_a_light_branch_without_a_bin_of_its_own_gets_no_gradient():
    """Spliced, a map of a single mel goes through the heavy branch; what both halves lie over, through both."""
    for merge, silent in (("", ["blocks.1.light.weight", "blocks.1.light.bias"]), ("_add", []), ("_concat", [])):
        model = build_model(f"dssdn_c8-9-12_r0.5_sc_h16{merge}")
        model(torch.randn(4, 1, 20, 2)).square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == silent


def test_the_full_input_of_the_paper():
    with torch.no_grad():
        assert build_model("dssdn-large").eval()(torch.randn(1, 1, 431, 256)).shape == (1, 10)


@every_network
@pytest.mark.parametrize("size", [(1, 1), (1, 64), (300, 1), (3, 5)], ids="{0[0]}x{0[1]}".format)
def test_pooling_stops_at_size_one(network, size):
    assert torch.isfinite(build_model(network).eval()(torch.randn(2, 1, *size))).all()


def test_networks_of_one_block_run():
    assert build_model("dssdn_c4-6_r0.5_sc_h8", n_classes=3)(torch.randn(2, 1, 8, 8)).shape == (2, 3)


@every_network
def test_maps_stay_in_channels_last(network):
    """It is the speed: about 1.5 times."""
    model = build_model(network)
    layouts = []
    for block in model.blocks:
        block.register_forward_hook(lambda *a: layouts.append(a[2].is_contiguous(memory_format=torch.channels_last)))
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(torch.randn(2, 1, 108, 64))
    assert torch.isfinite(logits).all()
    assert layouts == [True] * len(model.blocks)


@every_network
def test_bf16_is_close_to_fp32(network):
    torch.manual_seed(0)
    model, x = build_model(network).eval(), torch.randn(8, 1, 44, 64)
    with torch.no_grad():
        exact = model(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(x)
    assert (rough - exact).abs().max() < 0.05 * exact.abs().max()


def test_a_seed_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.detach().flatten() for p in build_model("dssdn-small").parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("ratio", "mels", "heavy"),
    [
        (0.5, 256, 128),
        (0.5, 5, 3),
        (0.375, 4, 2),
        (0.25, 2, 1),
        (0.75, 2, 1),
        (0.25, 1, 1),
        (1, 9, 9),
        (0.01, 64, 1),
    ],
)
def test_heavy_bins_round_half_up_and_leave_one_on_either_side(ratio, mels, heavy):
    assert heavy_bins(ratio, mels) == heavy


@pytest.mark.parametrize("ratio", [0.25, 0.375, 0.5, 0.75])
@pytest.mark.parametrize("half", ["low", "high"])
def test_the_cut_is_where_the_ratio_says_and_each_part_sees_only_itself(ratio, half):
    torch.manual_seed(0)
    block = DistillationBlock(6, Architecture.parse(f"dssdn_c6-4_r{ratio}_sc_h8").blocks[0], half).double().eval()
    block.attention, block.pool = nn.Identity(), nn.Identity()  # the only two that look across the cut
    mels, x = 16, torch.randn(1, 6, 5, 16, dtype=torch.float64)
    n_heavy = round(ratio * mels)
    heavy = slice(0, n_heavy) if half == "low" else slice(mels - n_heavy, mels)
    light = slice(n_heavy, mels) if half == "low" else slice(0, mels - n_heavy)
    for changed, kept in ((heavy, light), (light, heavy)):
        other = x.clone()
        other[..., changed] += 1
        assert torch.equal(block(other)[..., kept], block(x)[..., kept])
        assert not torch.equal(block(other)[..., changed], block(x)[..., changed])
    plain = torch.relu(block.norm(nn.functional.conv2d(x[..., light], block.light.weight, block.light.bias)))
    torch.testing.assert_close(block(x)[..., light], plain)


def test_the_high_half_is_the_low_half_of_the_flipped_map():
    torch.manual_seed(0)
    spec = Architecture.parse("dssdn_c6-4_r0.25_sc_h8").blocks[0]
    low, high = DistillationBlock(6, spec, "low").double(), DistillationBlock(6, spec, "high").double()
    flipped = {k: v.flip(3) if k.endswith("along_mel") else v for k, v in low.state_dict().items()}
    high.load_state_dict(flipped)
    x = torch.randn(2, 6, 8, 16, dtype=torch.float64)
    torch.testing.assert_close(high(x.flip(3)).flip(3), low(x))


def test_at_ratio_one_there_is_no_light_branch():
    uncut = build_model("dssdn_c6-4_r1_sc_h8")
    assert not any("light" in name for name, _ in uncut.named_parameters())


def test_the_block_is_the_structure_written_plainly():
    """Against the distillation block as one would write it from its description, in training mode."""
    torch.manual_seed(0)
    model = build_model("dssdn_c6-10_r0.5_sc_h8").double()
    (b,) = model.blocks
    x = torch.randn(3, 6, 7, 9, dtype=torch.float64)
    norm = lambda y: nn.functional.batch_norm(y, None, None, training=True)  # noqa: E731
    conv = lambda y, layer: nn.functional.conv2d(y, layer.weight, layer.bias)  # noqa: E731
    low, high = x[..., :5], x[..., 5:]
    r1 = norm(b.first.operator(low)).relu()
    r2 = norm(b.second.operator(r1)).relu()
    r3 = norm(b.third.operator(r2)).relu()
    distilled = torch.cat([conv(low, b.distil_input), conv(r1, b.distil_first), r3], 1)
    spliced = torch.cat([conv(distilled, b.fuse), conv(high, b.light)], 3)
    y = nn.functional.avg_pool2d(norm(b.attention(spliced)).relu(), 2)
    torch.testing.assert_close(b(x), y)


def conv(y, layer):
    return nn.functional.conv2d(y, layer.weight, layer.bias)


def distilled(b, x):
    r1 = b.first(x)
    return conv(torch.cat([conv(x, b.distil_input), conv(r1, b.distil_first), b.third(b.second(r1))], 1), b.fuse)


@pytest.mark.parametrize("merge", ["add", "concat"])
@pytest.mark.parametrize("half", ["low", "high"])
@pytest.mark.parametrize("mels", [8, 9, 1])
def test_parts_laid_over_each_other_are_equal_and_halve_the_mel_axis(merge, half, mels):
    """Of an odd number of bins the topmost is left out, as by an average pool; a single one is in both parts."""
    torch.manual_seed(0)
    high = "_high" if half == "high" else ""
    b = build_model(f"dssdn_c6-9_r0.5_sc_h8{high}_{merge}").double().eval().blocks[0]
    x = torch.randn(2, 6, 5, mels, dtype=torch.float64)
    low, upper = (x, x) if mels == 1 else (x[..., :4], x[..., 4:8])
    heavy, light = (low, upper) if half == "low" else (upper, low)
    parts = [distilled(b, heavy), conv(light, b.light)][:: 1 if half == "low" else -1]
    y = parts[0] + parts[1] if merge == "add" else torch.cat(parts, 1)
    assert y.shape[1] == 9
    y = nn.functional.avg_pool2d(b.norm(b.attention(y)).relu(), (2, 1))
    torch.testing.assert_close(b(x), y)
    assert b(x).shape == (2, 9, 2, max(mels // 2, 1))


def test_a_plain_block_is_operator_norm_relu_and_pool():
    b = build_model("dssdn_c6-9_r1_conv_h8_p2x1_plain").double().blocks[0]
    x = torch.randn(2, 6, 5, 4, dtype=torch.float64)
    y = nn.functional.batch_norm(nn.functional.conv2d(x, b.operator.conv.weight, padding=1), None, None, training=True)
    torch.testing.assert_close(b(x), nn.functional.avg_pool2d(y.relu(), (2, 1)))


def test_a_chain_is_the_block_without_what_it_distils():
    torch.manual_seed(0)
    b = build_model("dssdn_c6-10_r0.5_sc_h8_chain").double().eval().blocks[0]
    x = torch.randn(3, 6, 7, 9, dtype=torch.float64)
    low, high = x[..., :5], x[..., 5:]
    spliced = torch.cat([conv(b.third(b.second(b.first(low))), b.fuse), conv(high, b.light)], 3)
    y = nn.functional.avg_pool2d(b.norm(b.attention(spliced)).relu(), 2)
    torch.testing.assert_close(b(x), y)
    assert not any("distil" in name for name, _ in b.named_parameters())


def test_without_attention_nothing_looks_across_the_channels():
    with_it, without = (build_model(f"dssdn_c6-9_r0.5_sc_h8{end}") for end in ("", "_eca0"))
    assert [n for n, _ in with_it.named_parameters() if "attention" in n] == ["blocks.0.attention.conv.weight"]
    assert [n for n, _ in without.named_parameters() if "attention" in n] == []


@pytest.mark.parametrize(
    ("pools", "sizes"), [("1x1", [(9, 8)] * 2), ("2x1-1x2", [(4, 8), (4, 4)]), ("2x2", [(4, 4), (2, 2)])]
)
def test_each_block_pools_as_told(pools, sizes):
    model, seen = build_model(f"dssdn_c4-4-4_r0.5_sc_h8_p{pools}"), []
    for block in model.blocks:
        block.register_forward_hook(lambda *a: seen.append(tuple(a[2].shape[2:])))
    model(torch.randn(2, 1, 9, 8))
    assert seen == sizes


def test_the_head_sees_the_blocks_it_taps():
    model = build_model("dssdn_c4-5-6-7_r0.5_sc_h8_t1-3").eval()
    assert model.head.hidden.in_features == 5 + 7
    means, x = [], torch.randn(2, 1, 16, 16)
    for block in model.blocks:
        block.register_forward_hook(lambda *a: means.append(a[2].mean((2, 3))))
    logits = model(x)
    torch.testing.assert_close(model.head(torch.cat([means[0], means[2]], 1)), logits)


class TestByName:
    """The paper's networks and their comparators through one door."""

    def test_a_notation_and_an_architecture_are_names_too(self):
        text = "dssdn_c8-12-16_r0.5_sc_h16"
        check_network(text)
        assert count_network(text, (44, 64)) == count_network(Architecture.parse(text), (44, 64))

    def test_a_network_of_two_channels_is_handed_the_deltas(self):
        model, x = build_model("dsmn-2", 5, 32).eval(), torch.randn(2, 1, 40, 32)
        with torch.no_grad():
            torch.testing.assert_close(model(x), model.network(two_channels(x[:, 0])))
            assert not torch.equal(model(x), model.network(x.expand(-1, 2, -1, -1)))

    @pytest.mark.parametrize("ask", [check_network, build_model, lambda name: count_network(name, (44, 64))])
    def test_an_unknown_name_is_told_the_known_ones(self, ask):
        with pytest.raises(
            UserError, match=r"unknown network 'resnet'; .*known: .*or a notation such as dssdn_c28"
        ) as told:
            ask("resnet")
        assert all(repr(name) in str(told.value) for name in (*PAPER, *COMPARATORS))
        with pytest.raises(UserError, match="not the notation of an architecture"):
            ask("dssdn_c28_sc")
