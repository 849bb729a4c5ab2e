"""CP-ResNet, BC-ResNet and TF-SepNet: their notation, the published rules, counts and modules; the contract of all networks is in test_contract.py."""

import hashlib
import json
import random
import re

import pytest
import torch
import torchinfo
from torch import nn
from torch.nn import functional

from search_space import build_model, count, resolve
from search_space.comparators import PRINTED
from search_space.complexity import count_module, count_network
from search_space.errors import UserError
from search_space.families import FAMILIES, family_of, in_other_families, is_notation, parse
from search_space.presets import RELATED, preset_name, recorded
from search_space.related import KINDS, Block, Related, bc_resnet, cp_resnet, tf_sepnet
from search_space.related_modules import MaxPool, ResidualNorm

CPR = "cpr_c32-32-64-92_b2-1-1_k31-33-33-31_g1-2-1"
BCR = "bcr_c80-40-60-80-100_b2-2-2-3"
TFS = "tfs_c32-128-64-96-128-160_b2-2-2-3"


def drawn(number):
    """Networks of any widths, depths, kernels, groups and pools."""
    rng = random.Random(0)
    for place in range(number):
        kind, depths = list(KINDS)[place % 3], [rng.randint(1, 4) for _ in range(rng.randint(1, 5))]
        if kind == "cpr":
            kernels = [(rng.choice((1, 3)), rng.choice((1, 3))) for _ in range(sum(depths))]
            widths, groups = [6 * rng.randint(1, 3) for _ in depths], [rng.choice((1, 1, 2, 3)) for _ in depths]
            yield Related(kind, [6 * rng.randint(1, 3)], widths, depths, kernels, groups)
            continue
        pools = [rng.choice((1, 2)) for _ in depths] if rng.random() < 0.5 else ()
        first = rng.randint(1, 4)
        stem = [first] if kind == "bcr" else [first, 2 * first * rng.randint(1, 3)]
        yield Related(kind, stem, [2 * rng.randint(1, 5) for _ in depths], depths, pools=pools)


class TestNotation:
    def test_what_is_written_is_read_back(self):
        for network in drawn(200):
            text = str(network)
            assert Related.parse(text) == network == parse(text) == resolve(text)
            assert str(Related.parse(text)) == text
            assert re.fullmatch(r"[a-z0-9._-]+", text)
            assert is_notation(text)
            assert FAMILIES[family_of(network)].begins == network.kind

    def test_what_is_published_is_not_written(self):
        assert [str(RELATED[name]) for name in ("cp-resnet", "bc-resnet", "tf-sepnet-64")] == [CPR, BCR, TFS]
        assert Related.parse(f"{BCR}_p1-2-2-1") == Related.parse(BCR)
        assert Related.parse(f"{TFS}_p1-2-2-2") == Related.parse(TFS)
        assert str(Related.parse(f"{TFS}_p1-2-2-1")) == f"{TFS}_p1-2-2-1"
        assert str(Related.parse(CPR.replace("_g1-2-1", "_g1-1-1"))) == CPR.replace("_g1-2-1", "")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("cpr_c32", "is not the notation of a CP-ResNet network; it looks like cpr_c32"),
            ("bcr_c80_b2", "channels are those of the stem and of each stage"),
            ("tfs_c8-16_b2", "channels are those of the stem and of each stage"),
            ("bcr_c80-40_b2-2", "got 1 and 2 of them"),
            ("bcr_c80-40-0_b2-2", r"channels of the stages are whole numbers from 1 to 4096; got \[40, 0\]"),
            ("bcr_c80-40_b0", "1 to 8 stages of 1 to 32 blocks"),
            ("bcr_c80-40_b2_p3", r"divides frames and mels by 1 or 2; got \[3\]"),
            ("bcr_c80-40_b1_k33", "has kernels of 3 and no groups to choose"),
            ("tfs_c8-16-8_b1_g1", "has kernels of 3 and no groups to choose"),
            ("tfs_c8-20-8_b1", "second stem convolution has a multiple of the first's"),
            ("tfs_c8-16-7_b1", "halve their channels"),
            ("cpr_c8-8_b1", "two kernels of 1 or 3; got"),
            ("cpr_c8-8_b1_k35", "two kernels of 1 or 3; got"),
            ("cpr_c8-8_b1_k33_g3", r"divide the channels before and in it; got \[3\]"),
            ("cpr_c8-8_b1_k33_p2", "the pools of CP-ResNet are fixed"),
            ("bcr_c" + "9" * 30 + "-8_b1", "at most 20 digits"),
        ],
    )
    def test_what_cannot_be_is_said(self, text, message):
        for read in (Related.parse, resolve, build_model):
            with pytest.raises(UserError, match=message):
                read(text)
        with pytest.raises(UserError, match=message):
            count_network(text, (44, 64))

    def test_another_kind_is_refused(self):
        with pytest.raises(UserError, match=r"unknown kind of related network 'x'; known: \['bcr', 'cpr', 'tfs'\]"):
            Related("x", (8,), (8,), (1,))
        with pytest.raises(UserError, match="the stem of TF-SepNet has 2 convolutions"):
            Related("tfs", (8,), (8,), (1,))

    def test_a_record_by_name_and_one_by_notation_are_of_the_same_network(self):
        """Runs made while these networks had no notation say their names."""
        assert recorded("cp-resnet") == recorded(CPR) == CPR
        assert recorded("sp4asc") == "sp4asc"
        assert preset_name(resolve(BCR)) == "bc-resnet"


class TestRules:
    def test_the_receptive_field_of_cp_resnet_grows_kernel_by_kernel(self):
        kernels = {
            rho: [first + second for first, second in cp_resnet(rho=rho, depths=(2, 2, 2)).kernels] for rho in range(13)
        }
        assert kernels[0] == kernels[1] == [4, 2, 2, 2, 2, 2]
        assert [sum(kernels[rho]) for rho in range(1, 12)] == [14 + 2 * rho for rho in range(11)]
        assert kernels[11] == kernels[12] == [4, 6, 6, 6, 6, 6]

    def test_a_third_block_of_a_stage_sees_no_further(self):
        assert cp_resnet(rho=11, depths=(3, 1, 1)).kernels == ((3, 1), (3, 3), (1, 1), (3, 3), (3, 3))

    def test_cp_resnet_pools_behind_three_blocks_of_its_first_stage(self):
        network = Related("cpr", (4,), (4, 4), (5, 2), ((3, 3),) * 7)
        layers = [["block" if isinstance(layer, Block) else layer for layer in stage] for stage in network.stages]
        assert layers == [
            [(2, 2), "block", (1, 2), "block", (1, 2), "block", "block", (1, 2), "block"],
            ["block", "block"],
        ]

    def test_widths_follow_one_number(self):
        assert str(bc_resnet(8)) == "bcr_c16-8-12-16-20_b2-2-2-3"
        assert str(tf_sepnet(40, last_pool=False)) == "tfs_c20-80-40-60-80-100_b2-2-2-3_p1-2-2-1"
        assert str(cp_resnet(16, groups=1)) == "cpr_c16-16-32-46_b2-1-1_k31-33-33-31"

    def test_there_and_back_it_is_the_same_network(self):
        for network in (bc_resnet(40), tf_sepnet(64)):
            [(family, other)] = in_other_families(network).items()
            assert family_of(other) == family != family_of(network)
            assert in_other_families(other) == {family_of(network): network}


class TestCounts:
    @pytest.mark.parametrize(
        ("name", "params", "macs"),
        [
            ("cp-resnet", 127_684, 28_840_396),
            ("bc-resnet", 81_770, 29_584_800),
            ("bc-resnet-80", 306_730, 97_970_240),
            ("tf-sepnet-64", 126_858, 29_419_648),
        ],
    )
    def test_as_their_released_code_counts(self, name, params, macs):
        of = PRINTED[name]
        cost = count_network(name, of.input, of.outputs)
        assert (cost.params, cost.macs_by[of.convention], of.form) == (params, macs, "trained")
        assert of.published.params == params
        assert of.published.macs in (None, round(macs, -4))

    def test_of_any_widths_it_is_the_count_of_the_module(self):
        for network in drawn(9):
            with torch.device("meta"):
                model = build_model(network, 5)
            for size in ((3, 3), (9, 7), (43, 32)):
                assert count(network, size, 5)._replace(layers=()) == count_module(model, (1, *size))._replace(
                    layers=()
                )

    @pytest.mark.parametrize("network", [*drawn(6), "cp-resnet", "bc-resnet", "tf-sepnet-64"], ids=str)
    def test_torchinfo_counts_the_same(self, network):
        official = torchinfo.summary(build_model(network, 7), (1, 1, 44, 64), verbose=0, device="cpu")
        cost = count_network(network, (44, 64), 7)
        assert (cost.params, cost.macs_by["dcase"]) == (official.total_params, official.total_mult_adds)

    @pytest.mark.parametrize("network", [*drawn(6), *RELATED], ids=str)
    def test_layers_are_named_as_in_the_module(self, network):
        modules = dict(build_model(network).named_modules())
        for row in count_network(network, (65, 256)).layers:
            assert row.params == sum(parameter.numel() for parameter in modules[row.name].parameters())


class TestModules:
    @pytest.mark.parametrize(
        ("name", "digest"),
        [
            ("cp-resnet", "b0805e60ec68"),
            ("bc-resnet", "6b333bb55c2d"),
            ("bc-resnet-80", "0ec8551399db"),
            ("tf-sepnet-64", "72618abe981a"),
        ],
    )
    def test_weights_of_recorded_runs_fit(self, name, digest):
        """Names, order and shapes of all tensors as in runs made before these networks had a notation."""
        with torch.device("meta"):
            state = build_model(name).state_dict()
        shapes = json.dumps([[key, list(tensor.shape)] for key, tensor in state.items()])
        assert hashlib.sha256(shapes.encode()).hexdigest()[:12] == digest

    def test_too_small_an_input_is_said_alike_by_the_count_and_the_network(self):
        message = "CP-ResNet takes at least 3 frames x 3 mels; got 2 x 9; use longer clips or more mel bins"
        with pytest.raises(UserError, match=message):
            count_network("cp-resnet", (2, 9))
        with pytest.raises(UserError, match=message):
            build_model("cp-resnet")(torch.zeros(1, 1, 2, 9))

    def test_a_pool_stops_at_one(self):
        x = torch.randn(2, 3, 5, 1)
        assert torch.equal(MaxPool(2, 2)(x), functional.max_pool2d(x, (2, 1)))
        y = torch.randn(2, 3, 5, 6)
        assert torch.equal(MaxPool(1, 2)(y), functional.max_pool2d(y, (1, 2)))

    def test_residual_norm_is_its_equation(self):
        x = torch.randn(2, 4, 5, 3, dtype=torch.float64)
        mean, deviation = x.mean((1, 2), keepdim=True), (x.var((1, 2), keepdim=True) + 1e-5).sqrt()
        torch.testing.assert_close(ResidualNorm()(x), 0.1 * x + (x - mean) / deviation)

    def test_residual_block_is_the_block_written_plainly(self):
        torch.manual_seed(0)
        block = build_model("cpr_c4-6_b1_k31_g2", 3).double().eval().stages[0][1]
        x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
        y = functional.conv2d(x, block.first.conv.weight, padding=1, groups=2)
        y = functional.conv2d(block.first.norm(y).relu(), block.second.conv.weight, groups=2)
        shortcut = block.shortcut.norm(functional.conv2d(x, block.shortcut.conv.weight, groups=2))
        torch.testing.assert_close(block(x), (block.second.norm(y) + shortcut).relu())

    def test_broadcast_block_is_the_block_written_plainly(self):
        torch.manual_seed(0)
        first, second = build_model("bcr_c4-6_b2", 3).double().eval().stages[0][:2]
        x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
        inner = first.transition.norm(functional.conv2d(x, first.transition.conv.weight)).relu()
        for block, added, inside in ((first, 0, inner), (second, (z := torch.randn(2, 6, 5, 7).double()), z)):
            f = block.mel.norm(functional.conv2d(inside, block.mel.conv.weight, padding=(0, 1), groups=6))
            g = functional.conv2d(f.mean(3, keepdim=True), block.time.conv.weight, padding=(1, 0), groups=6)
            g = functional.conv2d(functional.silu(block.time.norm(g)), block.mix.weight)
            torch.testing.assert_close(block(x if block is first else z), (added + f + g).relu())

    def test_separate_block_is_the_block_written_plainly(self):
        torch.manual_seed(0)
        block = build_model("tfs_c2-6-6_b1", 3).double().eval().stages[0][0]
        assert isinstance(block.transition, nn.Identity)
        x = torch.randn(2, 6, 5, 7, dtype=torch.float64)
        shuffled = x[:, [0, 3, 1, 4, 2, 5]]
        halves = []
        for half, kernel, mix, padding, axis in (
            (shuffled[:, :3], block.mel, block.mel_mix, (0, 1), 3),
            (shuffled[:, 3:], block.time, block.time_mix, (1, 0), 2),
        ):
            y = kernel.norm(functional.conv2d(half, kernel.conv.weight, padding=padding, groups=3)).relu()
            y = mix.norm(functional.conv2d(y.mean(axis, keepdim=True), mix.conv.weight)).relu()
            halves.append(half + y)
        torch.testing.assert_close(block(x), torch.cat(halves, 1))
