"""The comparators as modules, and their counts beside the published ones; the contract of all networks is in test_contract.py."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from search_space.comparators import COMPARATORS
from search_space.complexity import count_module, count_network
from search_space.errors import UserError

every_network = pytest.mark.parametrize("name", COMPARATORS)

TABLE_1 = ["resnet34", "mobilenet-v1", "mobilenet-v2", "mobilenet-v3", "inception-v1"]
EXPLAINED = {  # deviations of more than 3 %; each network's note says why
    ("mobilenet-v1", "macs"): -0.037,
    ("mobilenet-v2", "macs"): -0.084,
    ("mobilenet-v3", "macs"): -0.131,
    ("dsmn-4", "params"): 0.156,
}


@functools.cache
def network(name, n_mels):
    """A network of seven classes; built once, its tests leave its weights alone."""
    torch.manual_seed(0)
    return COMPARATORS[name].build(7, n_mels)


@functools.cache
def unbuilt(name):
    """A network at its published number of outputs, without numbers in its weights."""
    comparator = COMPARATORS[name]
    with torch.device("meta"):
        return comparator.build(comparator.outputs, comparator.input[1]).eval()


def maps(name, size, batch):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, COMPARATORS[name].channels_in, *size, generator=generator)


class TestModules:
    @every_network
    def test_layouts_change_nothing(self, name):
        """The layout of the maps is for speed."""
        model, x = network(name, 44).eval(), maps(name, (40, 44), 2)
        plain = COMPARATORS[name].build(7, 44).eval()
        for layer in plain.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.data = torch.empty(layer.weight.shape)
        plain.load_state_dict(model.state_dict())
        with torch.no_grad():
            expected = plain(x)
            assert (model(x) - expected).abs().max() < 1e-4 * expected.abs().max()


class TestCounts:
    @every_network
    def test_within_three_per_cent_of_the_published_or_explained(self, name):
        comparator = COMPARATORS[name]
        cost = count_network(name, comparator.input, comparator.outputs)
        ours = {"params": cost.params, "macs": cost.macs_by[comparator.convention]}
        for key, published in (("params", comparator.published.params), ("macs", comparator.published.macs)):
            if published is None:
                assert comparator.note
                continue
            deviation = ours[key] / published - 1
            if (name, key) in EXPLAINED:
                assert deviation == pytest.approx(EXPLAINED[name, key], abs=5e-4)
                assert comparator.note
            else:
                assert abs(deviation) < 0.03, (key, deviation)

    @pytest.mark.parametrize(
        ("name", "params", "macs"),
        [
            ("resnet34", "21.30", "7.99"),
            ("mobilenet-v1", "3.24", "1.29"),  # printed: 3.25
            ("mobilenet-v2", "2.27", "0.71"),
            ("mobilenet-v3", "1.70", "0.14"),
            ("inception-v1", "14.52", "3.30"),
        ],
    )
    def test_counted_as_the_paper_counted_they_print_the_same(self, name, params, macs):
        model, values = unbuilt(name), []
        norms = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
        hooks = [norm.register_forward_hook(lambda *call: values.append(call[2].numel())) for norm in norms]
        model(torch.zeros(1, 1, 431, 256, device="meta"))
        for hook in hooks:
            hook.remove()
        cost = count_module(model, (1, 431, 256))
        statistics = 2 * sum(norm.num_features for norm in norms)
        assert f"{(cost.params + statistics) / 1e6:.2f}" == params
        assert f"{(cost.macs + 4 * sum(values)) / 1e9:.2f}" == macs

    @pytest.mark.parametrize(
        ("name", "stem", "published"),
        [("resnet34", 64 * 49, 21_797_672), ("mobilenet-v1", 32 * 9, 4_231_976), ("mobilenet-v2", 32 * 9, 3_504_872)],
    )
    def test_with_three_channels_and_a_thousand_classes_they_are_the_known_networks(self, name, stem, published):
        with torch.device("meta"):
            model = COMPARATORS[name].build(1000)
        assert sum(parameter.numel() for parameter in model.parameters()) + 2 * stem == published

    def test_inceptions_auxiliary_classifiers_cost_params_alone(self):
        model = unbuilt("inception-v1")
        heads = sum(p.numel() for head in (model.after_early, model.after_middle) for p in head.parameters())
        assert (heads, count_module(model, (1, 431, 256)).params - heads) == (8_544_532, 5_977_530)

    def test_sp4asc_in_both_forms(self):
        """Folding drops one of batch norm's two numbers a channel and charges a bias at every position."""
        model, widths = unbuilt("sp4asc"), (64, 128, 128, 128)
        cost = count_module(model, (1, 431, 256))
        positions = (431 * 256, 215 * 128, 107 * 64, 53 * 32)
        biases = sum(channels * size for channels, size in zip(widths, positions, strict=True))
        assert (cost.params, cost.params - sum(widths)) == (62_922, 62_474)
        assert (round(cost.macs / 1e6, 1), round((cost.macs + biases) / 1e6)) == (442.6, 454)


class TestSp4asc:
    def test_another_number_of_mels_is_explained(self):
        with pytest.raises(UserError, match=r"parameters for each mel bin, here 64; got a log-mel of 32; .*n_mels=32"):
            network("sp4asc", 64).eval()(torch.zeros(1, 1, 32, 32))

    def test_it_is_the_network_written_plainly(self):
        torch.manual_seed(0)
        model = COMPARATORS["sp4asc"].build(5, 20).double().eval()
        for norm in (model.norm, *(block.norm for block in model.blocks)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
        x = torch.randn(2, 1, 33, 20, dtype=torch.float64)
        scale = model.norm.weight / (model.norm.running_var + model.norm.eps).sqrt()
        y = (x - model.norm.running_mean) * scale + model.norm.bias
        for block in model.blocks:
            y = nn.functional.conv2d(y, block.pointwise.weight)
            groups = y.shape[1]
            time = nn.functional.conv2d(y, block.along_time.weight, padding=(2, 0), dilation=(2, 1), groups=groups)
            mel = nn.functional.conv2d(y, block.along_mel.weight, padding=(0, 2), dilation=(1, 2), groups=groups)
            y = nn.functional.avg_pool2d(block.norm(time + mel).relu(), 2)
        y = y.mean(3).amax(2) + y.mean((2, 3))
        y = model.head.classes(model.head.hidden(y).relu())
        torch.testing.assert_close(model(x), y)


class TestRegistry:
    @every_network
    def test_sources_and_figures_are_stated(self, name):
        comparator = COMPARATORS[name]
        assert comparator.name == name
        assert "arXiv" in comparator.source or "DCASE" in comparator.source
        assert comparator.published.dataset
        assert comparator.published.params
        assert comparator.note or None not in comparator.published

    def test_reading_it_needs_no_torch(self):
        code = """
import sys
from search_space.comparators import COMPARATORS
from search_space import tables
assert COMPARATORS["resnet34"].published.params == 21_300_000
assert "torch" not in sys.modules
"""
        subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
