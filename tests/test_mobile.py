"""CP-Mobile and Rep-Mobile: their notation, the published rule and counts; the contract of all networks is in test_contract.py."""

import random
import re

import pytest
import torch
import torchinfo
from torch import nn

from search_space import Architecture, build_model, count, resolve
from search_space.blocks import RepConv
from search_space.comparators import PRINTED
from search_space.complexity import count_module, count_network
from search_space.errors import UserError
from search_space.families import FAMILIES, family_of, is_notation, only_dssdn, parse
from search_space.inference import inference_form
from search_space.mobile import Mobile, eights, mobile
from search_space.presets import CP_MOBILE, DESCRIBED, RELATED, REP_MOBILE, preset_name

S2 = "cpm_c4-16-16-24-40_b3-2-1_x32-32-32-32-40-40"


def drawn(number):
    """Networks of any widths, as pruning makes them."""
    rng = random.Random(0)
    for _ in range(number):
        depths = [rng.randint(1, 3) for _ in range(rng.randint(1, 4))]
        blocks = sum(depths)
        pools = [(rng.choice((1, 2)), rng.choice((1, 2))) for _ in range(blocks)] if rng.random() < 0.5 else ()
        yield Mobile(
            rng.choice(("cpm", "repm")),
            (rng.randint(1, 9), rng.randint(1, 9)),
            [rng.randint(1, 9) for _ in depths],
            depths,
            [rng.randint(1, 9) for _ in range(blocks)],
            pools,
        )


class TestNotation:
    def test_what_is_written_is_read_back(self):
        for network in drawn(200):
            text = str(network)
            assert Mobile.parse(text) == network == parse(text) == resolve(text)
            assert str(Mobile.parse(text)) == text
            assert re.fullmatch(r"[a-z0-9._-]+", text)
            assert is_notation(text)
            assert FAMILIES[family_of(network)].begins == network.kind

    def test_the_published_pools_are_not_written(self):
        published = Mobile("cpm", (4, 16), (16, 24, 40), (3, 2, 1), (32, 32, 32, 32, 40, 40))
        assert str(published) == S2
        assert published.pools == ((1, 1), (2, 2), (1, 1), (1, 2), (1, 1), (1, 1))
        assert Mobile.parse(f"{S2}_p1x1-2x2-1x1-1x2-1x1-1x1") == published
        assert str(Mobile.parse(f"{S2}_p1x1-2x2-1x1-2x2-1x1-1x1")) == f"{S2}_p1x1-2x2-1x1-2x2-1x1-1x1"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("cpm_c4-16-16", "is not the notation of a CP-Mobile or Rep-Mobile network"),
            ("cpm_c4-16_b3_x32-32-32", "two stem convolutions and of each stage"),
            ("cpm_c4-16-16_b3-2_x32-32-32-32-32", "got 1 and 2 of them"),
            ("cpm_c4-16-16_b3_x32-32", r"got 2 for 3 blocks in \[32, 32\]"),
            ("cpm_c4-16-16_b3_x32-32-0", r"whole numbers from 1 to 4096; got \[32, 32, 0\]"),
            ("cpm_c4-16-16_b0_x32", "1 to 8 stages of 1 to 32 blocks"),
            ("cpm_c4-16-16_b1_x32_p3x1", "divides frames and mels by 1 or 2 each; got 3x1 for 1 blocks"),
            ("cpm_c4-16-16_b1_x" + "9" * 30, "at most 20 digits"),
        ],
    )
    def test_what_cannot_be_is_said(self, text, message):
        for read in (Mobile.parse, resolve, build_model, count_network):
            with pytest.raises(UserError, match=message):
                read(*([text, (44, 64)] if read is count_network else [text]))

    def test_another_kind_and_another_family_are_refused(self):
        with pytest.raises(UserError, match=r"unknown kind of mobile network 'x'; known: \['cpm', 'repm'\]"):
            Mobile("x", (4, 16), (16,), (1,), (32,))
        with pytest.raises(UserError, match="unknown network 'xpm_c4'"):
            resolve("xpm_c4")
        with pytest.raises(UserError, match="the cut takes a network of DSSDN"):
            only_dssdn(resolve(S2), "the cut")
        assert isinstance(only_dssdn(resolve("dssdn-large"), "the cut"), Architecture)

    def test_a_block_that_opens_a_later_stage_adds_nothing_however_wide(self):
        adds = [[block.adds for block in stage] for stage in Mobile.parse("cpm_c2-8-8-8-4_b2-2-2_x8-8-8-8-8-8").blocks]
        assert adds == [[True, True], [False, True], [False, True]]


class TestRule:
    @pytest.mark.parametrize(
        ("channels", "near"), [(1, 8), (12, 16), (15.2, 16), (20, 24), (28.8, 32), (43.2, 40), (27, 32), (106.4, 104)]
    )
    def test_the_nearest_multiple_of_eight(self, channels, near):
        assert eights(channels) == near

    def test_it_makes_the_presets(self):
        assert str(mobile("cpm", 16, 1.5, 1.8)) == S2
        assert {preset_name(network) for network in DESCRIBED.values()} == set(DESCRIBED)
        assert {*CP_MOBILE, *REP_MOBILE, *RELATED} == set(PRINTED)


class TestCounts:
    @pytest.mark.parametrize(
        ("name", "params", "macs"),
        [
            ("cp-mobile-s1", 5_722, 1_582_336),
            ("cp-mobile-s2", 12_310, 4_354_304),
            ("cp-mobile-s3", 30_106, 9_638_144),
            ("cp-mobile-s4", 54_182, 16_803_072),
        ],
    )
    def test_the_submissions_deployed(self, name, params, macs):
        cost = count_network(name, (64, 256))
        assert (cost.params, cost.macs_by["dcase"]) == (params, macs)
        printed = PRINTED[name].published
        assert (printed.params, printed.macs) == (params, round(macs, -3))

    @pytest.mark.parametrize(
        ("name", "params", "macs"),
        [("cp-mobile-126k", 126_952, 28_893_268), ("cp-mobile-2025", 61_160, 17_050_260)],
    )
    def test_two_more_as_they_are_trained(self, name, params, macs):
        cost = count_module(build_model(name), (1, 64, 256))
        assert (cost.params, cost.macs_by["dcase"]) == (params, macs)
        printed = PRINTED[name].published
        assert (printed.params, round(printed.macs, -4)) == (params, round(macs, -4))
        deployed = count_network(name, (64, 256))
        assert deployed.params < params
        assert deployed.macs_by["dcase"] > macs

    def test_rep_mobile_in_all_its_forms(self):
        """As trained; branches merged, which is printed with the 24 branch weights left over; and with every norm folded."""
        model = build_model("rep-mobile")
        trained = torchinfo.summary(model, (1, 1, 65, 256), verbose=0, device="cpu", mode="train")
        assert (trained.total_params, round(trained.total_mult_adds, -4)) == (75_186, 21_440_000)
        merged, printed = count_module(model, (1, 65, 256)), PRINTED["rep-mobile"].published
        assert (merged.params + 24, round(merged.macs_by["dcase"], -4)) == (printed.params, printed.macs)
        deployed = count_network("rep-mobile", (65, 256))
        assert (deployed.params, deployed.macs_by["dcase"]) == (66_640, 20_821_808)

    def test_of_any_widths_it_is_the_count_of_the_deployed_module(self):
        for network in drawn(12):
            with torch.device("meta"):
                form = inference_form(build_model(network, 5))
            for size in ((1, 1), (9, 7), (43, 32)):
                assert count(network, size, 5)._replace(layers=()) == count_module(form, (1, *size))._replace(layers=())

    def test_layers_are_named_as_in_the_deployed_module(self):
        form = dict(inference_form(build_model("rep-mobile")).named_modules())
        for row in count_network("rep-mobile", (65, 256)).layers:
            assert row.params == sum(parameter.numel() for parameter in form[row.name].parameters())


class TestModules:
    @pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2)])
    @pytest.mark.parametrize("weighted", [True, False])
    def test_merged_branches_are_the_branches(self, stride, weighted):
        torch.manual_seed(0)
        conv = RepConv(5, stride, weighted)
        for name, tensor in (*conv.named_parameters(), *conv.named_buffers()):
            if tensor.is_floating_point():
                nn.init.uniform_(tensor, 0.5, 2) if name.endswith("var") else nn.init.normal_(tensor)
        x = torch.randn(3, 5, 9, 8)
        with torch.no_grad():
            expected = conv.eval().sum_of_branches(x)
            assert (conv(x) - expected).abs().max() < 1e-5 * expected.abs().max()
            assert torch.equal(conv(x), conv.convolution()(x))

    def test_rep_mobile_block_is_the_block_written_plainly(self):
        torch.manual_seed(0)
        model = build_model("repm_c2-4-4_b1_x6_p1x2", 3).double().eval()
        block = model.stages[0][0]
        nn.init.normal_(block.response.gamma)
        nn.init.normal_(block.response.beta)
        x = torch.randn(2, 4, 5, 7, dtype=torch.float64)
        y = block.project(block.depthwise(block.expand(x)))
        y = y + nn.functional.avg_pool2d(x, 3, (1, 2), 1)
        a = block.attention
        weight = a.time(y.mean(3)).sigmoid()[:, :, :, None] * a.mel(y.mean(2)).sigmoid()[:, :, None, :]
        weight = weight * a.channel(y.mean((2, 3))[:, None]).sigmoid().transpose(1, 2)[..., None]
        y = y * weight
        norm = y.square().sum((2, 3), keepdim=True).sqrt()
        y = block.response.gamma * y * (norm / (norm.mean(1, keepdim=True) + 1e-6)) + block.response.beta + y
        torch.testing.assert_close(block(x), nn.functional.silu(y))
