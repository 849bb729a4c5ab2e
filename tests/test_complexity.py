"""What is counted: against hand arithmetic, the paper's table, the built model and fvcore."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_model import EVERY_INPUT, NETWORKS

from search_space import PRESETS, build_model, count, resolve
from search_space.complexity import fvcore_count, parse_input
from search_space.errors import UserError

PAPER = {  # DSSDN (arXiv 2405.03567), Table 1; 0.078 M for Small is its text's
    "dssdn-large": (0.11e6, 0.66e9),
    "dssdn-middle": (0.11e6, 0.61e9),
    "dssdn-small": (0.078e6, 0.56e9),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_within_six_per_cent_of_the_paper(name):
    cost = count(PRESETS[name], (431, 256), n_classes=10)
    params, macs = PAPER[name]
    assert cost.params == pytest.approx(params, rel=0.06)
    assert cost.macs == pytest.approx(macs, rel=0.06)


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


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_each_row_is_a_module_of_the_built_model(network):
    model, cost = build_model(network, n_classes=7), count(resolve(network), (44, 64), n_classes=7)
    for row in cost.layers:
        assert row.params == sum(p.numel() for p in model.get_submodule(row.name).parameters()), row.name
    assert cost.params == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("size", EVERY_INPUT, ids="{0[0]}x{0[1]}".format)
def test_macs_are_fvcores(network, size):
    assert fvcore_count(build_model(network, n_classes=7), size) == count(resolve(network), size, n_classes=7).macs


def test_macs_are_fvcores_at_the_full_input():
    assert fvcore_count(build_model("dssdn-large"), (431, 256)) == count(PRESETS["dssdn-large"], (431, 256)).macs


def test_fvcore_leaves_the_model_as_it_was():
    model = build_model("dssdn_c4-6_r0.5_sc_h8")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    fvcore_count(model, (8, 8))
    assert model.training
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


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
import search_space.operators, search_space.describe
space = search_space.get_space()
space.sample(lambda _, options: options[-1]), space.largest((431, 256), 10), space.digest
assert search_space.count(search_space.PRESETS["dssdn-small"], (431, 256)).params
assert "torch" not in sys.modules and "fvcore" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)


def test_an_input_is_frames_times_mels():
    assert parse_input("431x256") == (431, 256)
    for text in ("431", "431x", "0x256", "431x256x1", "-1x4", "4.5x4", ""):
        with pytest.raises(UserError, match=r"frames x mels.*write e\.g\. 431x256"):
            parse_input(text)
