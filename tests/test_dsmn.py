"""DSMN: the printed counts to the number, its block against the structure written plainly, its two-channel input."""

import pytest
import torch
import torchaudio
import torchinfo
from torch import nn

from search_space.comparators import COMPARATORS
from search_space.complexity import count_module
from search_space.dsmn import Dsmn, DsmnBlock, two_channels

COUNTS = {  # params and MACs by the dcase counting, and what the table prints of them
    "dsmn-1": (45_164, 8_645_641),
    "dsmn-2": (56_172, 16_746_033),
    "dsmn-3": (56_556, 25_441_889),
    "dsmn-4": (140_748, 20_920_441),
    "dsmn-4-64": (121_812, 20_901_505),
}


class TestCounts:
    @pytest.mark.parametrize("name", COUNTS)
    def test_params_and_macs_at_one_second(self, name):
        with torch.device("meta"):
            model = COMPARATORS[name].build(13).eval()
        cost = count_module(model, (2, 44, 256))
        clip = torch.zeros(1, 2, 44, 256, device="meta")
        assert (cost.params, cost.macs_by["dcase"]) == COUNTS[name]
        assert torchinfo.summary(model, input_data=clip, verbose=0).total_mult_adds == COUNTS[name][1]

    @pytest.mark.parametrize("name", ["dsmn-1", "dsmn-2", "dsmn-3"])
    def test_they_round_down_to_the_printed_table(self, name):
        params, macs = COUNTS[name]
        published = COMPARATORS[name].published
        assert (params // 100 * 100, macs // 10_000 * 10_000) == (published.params, published.macs)

    def test_the_fourth_meets_each_printed_figure_with_one_hidden_layer(self):
        published = COMPARATORS["dsmn-4"].published
        assert COUNTS["dsmn-4"][1] // 10_000 * 10_000 == published.macs
        assert COUNTS["dsmn-4-64"][0] // 100 * 100 == published.params

    def test_all_params_run(self):
        with torch.device("meta"):
            model = COMPARATORS["dsmn-1"].build(13)
        assert all(row.kind not in ("never run", "own params") for row in count_module(model, (2, 44, 256)).layers)


class TestBlock:
    @pytest.mark.parametrize("cut", [True, False])
    def test_it_is_the_structure_written_plainly(self, cut):
        torch.manual_seed(0)
        b, x = DsmnBlock(8, 10, cut).double(), torch.randn(3, 8, 7, 12, dtype=torch.float64)
        norm = lambda y: nn.functional.batch_norm(y, None, None, training=True)  # noqa: E731

        def conv(y, layer, padding=(0, 0), dilation=(1, 1), groups=1):
            return nn.functional.conv2d(y, layer.weight, layer.bias, 1, padding, dilation, groups)

        def separable(y, layer):
            C = layer.norm.num_features
            y = conv(y, layer.scale, groups=C)
            time = conv(y, layer.along_time, (2, 0), (2, 1), C)
            return norm(time + conv(y, layer.along_mel, (0, 2), (1, 2), C)).relu()

        low, high = x.chunk(2, dim=3)
        heavy = low if cut else x
        r1 = separable(heavy, b.first)
        r3 = separable(separable(r1, b.second), b.third)
        if cut:
            merged = conv(low, b.distil_input) + conv(high, b.distil_other) + r3
        else:
            merged = torch.cat([conv(x, b.distil_input), conv(r1, b.distil_other), r3], 1)
        scale = nn.functional.conv1d(merged.mean((2, 3)).unsqueeze(1), b.attention.conv.weight, padding=1).sigmoid()
        y = norm(conv(merged * scale.transpose(1, 2).unsqueeze(3), b.fuse)).relu()
        torch.testing.assert_close(b(x), nn.functional.avg_pool2d(y, (2, 1) if cut else 2))

    def test_the_1x1_mixes_no_more_than_two_channels(self):
        block = DsmnBlock(8, 10, cut=True)
        assert [layer.scale.weight.shape[1] for layer in (block.first, block.second, block.third)] == [1, 1, 2]

    def test_odd_bins_are_cut_with_the_middle_one_in_both_halves(self):
        torch.manual_seed(0)
        block, x = DsmnBlock(8, 10, cut=True).eval(), torch.randn(1, 8, 4, 5)
        assert block(x).shape == (1, 10, 2, 3)
        x = torch.cat([x[..., :3], x[..., 2:]], dim=3)  # the same, cut in the middle of six
        torch.testing.assert_close(block(x), block(torch.cat([x[..., :3], x[..., 4:]], dim=3)))

    def test_each_cut_halves_the_mels_and_each_pool_the_frames(self):
        model, shapes = Dsmn(4, cuts=(True, False, True, False, True)).eval(), []
        for block in model.blocks:
            block.register_forward_hook(lambda *call: shapes.append(tuple(call[2].shape[1:])))
        model(torch.randn(1, 2, 44, 64))
        assert shapes == [(24, 22, 32), (32, 11, 16), (64, 5, 8), (64, 2, 4), (64, 1, 2)]


class TestTwoChannels:
    def test_it_is_what_torchaudio_gives(self):
        torch.manual_seed(0)
        logmel = 5 + 3 * torch.randn(4, 44, 20)
        standard = lambda x: (x - x.mean((1, 2), keepdim=True)) / x.std((1, 2), correction=0, keepdim=True)  # noqa: E731
        first = standard(logmel)
        deltas = torchaudio.transforms.ComputeDeltas(win_length=5)(first.transpose(1, 2)).transpose(1, 2)
        torch.testing.assert_close(two_channels(logmel), torch.stack([first, standard(deltas)], dim=1))

    def test_each_channel_is_standard_and_each_clip_its_own(self):
        torch.manual_seed(0)
        logmel = torch.randn(3, 30, 8) * torch.tensor([1.0, 5.0, 0.1])[:, None, None] + 7
        x = two_channels(logmel)
        torch.testing.assert_close(x.mean((2, 3)), torch.zeros(3, 2), atol=1e-4, rtol=0)
        torch.testing.assert_close(x.std((2, 3), correction=0), torch.ones(3, 2))
        torch.testing.assert_close(two_channels(logmel[1:2]), x[1:2])

    def test_a_rising_tone_has_even_deltas(self):
        """The slope of t is 1 everywhere but at the ends, where frames repeat: (2 * 2 + 2) / 10 next to, 5 / 10 at."""
        ramp = torch.arange(10.0)[None, :, None].expand(1, 10, 4)
        deltas = two_channels(ramp)[0, 1, :, 0]
        torch.testing.assert_close(deltas[2:-2], deltas[2].expand(6))
        assert deltas[0] < deltas[1] < deltas[2]
        torch.testing.assert_close((deltas[2] - deltas[0]) / (deltas[2] - deltas[1]), torch.tensor(0.5 / 0.2))

    def test_one_value_is_zero(self):
        assert torch.equal(two_channels(torch.full((2, 1, 1), 3.0)), torch.zeros(2, 2, 1, 1))

    def test_silence_is_zero(self):
        assert not two_channels(torch.full((2, 12, 6), -23.0)).any()

    def test_a_network_reads_it(self):
        model = COMPARATORS["dsmn-2"].build(10).eval()
        assert model(two_channels(torch.randn(2, 43, 64))).shape == (2, 10)
