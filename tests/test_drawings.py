"""Drawings: the diagram says what is counted, the cut lies at its bin, hostile text stays text."""

from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
import torchaudio

from search_space import Architecture, build_model, count
from search_space.errors import UserError
from search_space.presets import PRESETS, resolve
from search_space.related import Block
from search_space.space import get_space
from studies.charts import GREEN, VERMILLION
from studies.drawings import (
    cost_by_part,
    cost_figure,
    logmel_figure,
    mel_cuts,
    mel_edges_hz,
    network_svg,
    operator_label,
)
from trainers.features import PAPER

LARGE = "dssdn_c28-44-60-60-60-60_r0.5_sc_h64"
NETWORKS = (
    LARGE,
    "dssdn_c16-24-32_r0.25-0.75_osc.m6_h64_high",
    "dssdn_c28-44-60_r0.5_sc_h64_concat_t1-2",
    "dssdn_c28-44-60_r0.5_sc_h64_add_eca0",
    "dssdn_c28-44_r1_conv_h64_plain",
    "dssdn_c28-44-44_r0.5_sc_h32_chain",
    "dssdn_c8-8_r0.01_spc.p0.25_h64_p1x2",
)


def words(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


class TestDiagram:
    @pytest.mark.parametrize("notation", [*NETWORKS, *map(str, PRESETS.values())])
    @pytest.mark.parametrize("size", [(431, 256), (43, 64), (1, 1)])
    def test_any_network_is_drawn_within_its_frame(self, notation, size):
        architecture = Architecture.parse(notation)
        root = ElementTree.fromstring(network_svg(architecture, size, 10))
        width, height = map(float, root.attrib["viewBox"].split()[2:])
        boxes = [element.attrib for element in root.iter() if element.tag.endswith("rect")]
        assert boxes
        for box in boxes:
            assert 0 <= float(box["x"]) < float(box["x"]) + float(box["width"]) <= width
            assert 0 <= float(box["y"]) < float(box["y"]) + float(box["height"]) <= height
            assert float(box["width"]) > 0

    @pytest.mark.parametrize(
        ("name", "ends", "adding"),
        [
            ("cp-resnet", ["0.1.second.conv", "0.3.second.conv", "1.0.shortcut.conv", "2.0.shortcut.conv"], 4),
            ("bc-resnet", ["0.1.mix", "1.2.mix", "2.2.mix", "3.1.mix", "3.2.mix"], 5),
            ("tf-sepnet-64", [], 0),
        ],
    )
    def test_a_block_that_adds_its_input_has_a_line_to_its_last_layer(self, name, ends, adding):
        """Batch norm stands in the box of what it normalises."""
        network = resolve(name)
        root = ElementTree.fromstring(network_svg(network, (64, 256), 10))
        lines = [element.attrib["d"] for element in root.iter() if element.attrib.get("stroke") == GREEN]
        assert len(lines) == adding
        boxes = [element for element in root.iter() if element.tag.endswith("rect")]
        layers = [layer for layer in count(network, (64, 256), 10).layers if layer.kind != "batch norm"]
        assert len(boxes) == len(layers)
        places = {
            layer.name.removeprefix("stages."): (float(box.attrib["y"]), float(box.attrib["height"]))
            for box, layer in zip(boxes, layers, strict=True)
        }
        for line, end in zip(lines, ends, strict=True):
            top, height = places[end]
            assert top <= float(re.search(r"V([\d.]+)", line)[1]) <= top + height

    @pytest.mark.parametrize("name", ["cp-resnet", "bc-resnet", "tf-sepnet-64"])
    @pytest.mark.parametrize("size", [(64, 256), (7, 5)])
    def test_the_shape_behind_a_part_is_that_of_the_map(self, name, size):
        network = resolve(name)
        parts = cost_by_part(count(network, size, 10), network).set_index("part")["shape"]
        shapes, model = {}, build_model(network).eval()
        for stage, layers in enumerate(network.stages):
            number = 0
            for place, layer in enumerate(layers):
                number += isinstance(layer, Block)
                # The last layer of a part tells its shape: what follows a block, and behind a pool that opens the stage its first block.
                part = f"stage {stage + 1}, block {number or 1}"
                model.stages[stage][place].register_forward_hook(
                    lambda *call, part=part: shapes.update({part: call[2].shape[1:]})
                )
        with torch.no_grad():
            model(torch.zeros(1, 1, *size))
        assert {part: tuple(shape) for part, shape in shapes.items()} == parts.iloc[1:-1].to_dict()

    @pytest.mark.parametrize("name", ["cp-mobile-s1", "rep-mobile"])
    def test_a_mobile_block_adds_its_input_behind_its_last_convolution(self, name):
        """The line ends at a box of `project`, before attention and response norm."""
        network = resolve(name)
        root = ElementTree.fromstring(network_svg(network, (64, 256), 10))
        lines = [element.attrib["d"] for element in root.iter() if element.attrib.get("stroke") == GREEN]
        ends = [float(re.search(r"V([\d.]+)", line)[1]) for line in lines if " H" in line]
        boxes = [element for element in root.iter() if element.tag.endswith("rect")]
        layers = count(network, (64, 256), 10).layers
        assert len(boxes) == len(layers)
        reached = [
            layer.name
            for end in ends
            for box, layer in zip(boxes, layers, strict=True)
            if float(box.attrib["y"]) <= end <= float(box.attrib["y"]) + float(box.attrib["height"])
        ]
        adding = [
            f"stages.{i}.{j}.project.conv"
            for i, stage in enumerate(network.blocks)
            for j, block in enumerate(stage)
            if block.adds
        ]
        assert reached == adding

    def test_networks_of_every_space_are_drawn(self):
        rng = np.random.default_rng(0)
        for name in ("dssdn", "dssdn-blocks", "dssdn-wide"):
            for _ in range(20):
                architecture = get_space(name).sample(lambda _, options: rng.choice(options))
                assert f"Block {len(architecture.blocks)}" in words(network_svg(architecture, (431, 256), 10))

    def test_it_says_shapes_costs_and_cut(self):
        said = words(network_svg(Architecture.parse(LARGE), (431, 256), 10))
        assert "28 × 431 × 256" in said
        assert "44 × 215 × 128" in said
        assert "heavy, 128 of 256 bins" in said
        assert said.count("SC") == 15
        assert "means of blocks 2–5: 240 values" in said
        assert "linear 10: one value a class" in said

    @pytest.mark.parametrize(("half", "wider_on_the_left"), [("", True), ("_high", False)])
    def test_the_cut_lies_at_its_ratio(self, half, wider_on_the_left):
        svg = network_svg(Architecture.parse(f"dssdn_c16-24_r0.75_sc_h64{half}"), (431, 256), 10)
        [place] = [float(x) for x in re.findall(rf'M([\d.]+) [^"]*" fill="none" stroke="{VERMILLION}"', svg)]
        share = (place - 8) / (384 - 8)
        assert share == pytest.approx(0.75 if wider_on_the_left else 0.25, abs=0.01)

    def test_only_a_distillation_block_distils(self):
        drawn = [
            network_svg(Architecture.parse(f"dssdn_c16-24_r0.5_sc_h64{kind}"), (43, 64), 3).count(GREEN)
            for kind in ("", "_chain")
        ]
        assert drawn[0] == drawn[1] + 2

    def test_an_operator_is_written_with_its_options(self):
        assert operator_label(Architecture.parse("dssdn_c16-24_r1_osc.m6_h64").blocks[0]) == "OSC m6"
        assert operator_label(Architecture.parse(LARGE).blocks[0]) == "SC"


class TestCost:
    @pytest.mark.parametrize("notation", NETWORKS)
    def test_parts_add_up(self, notation):
        architecture = Architecture.parse(notation)
        cost = count(architecture, (431, 256), 10)
        parts = cost_by_part(cost, architecture)
        assert (parts["params"].sum(), parts["macs"].sum()) == (cost.params, cost.macs)
        assert parts["part"].tolist() == ["stem", *(f"block {i + 1}" for i in range(len(architecture.blocks))), "head"]
        shapes = parts["shape"].tolist()
        assert [shape[0] for shape in shapes[1:-1]] == [block.out_channels for block in architecture.blocks]

    def test_bars_hold_the_counts(self):
        architecture = Architecture.parse(LARGE)
        parts = cost_by_part(count(architecture, (431, 256), 10), architecture)
        params, macs = cost_figure(parts, synthetic=True).data
        assert list(params.x) == parts["params"].tolist()
        assert list(macs.x) == parts["macs"].tolist()
        assert cost_figure(parts, synthetic=True).layout.title.text == "synthetic data"


class TestLogmel:
    @pytest.mark.parametrize("scale", ["slaney", "htk"])
    def test_mel_frequencies_are_those_of_the_filters(self, scale):
        """A filter of the reference is zero outside its corners and largest near its peak."""
        front_end = dataclasses.asdict(PAPER) | {"mel_scale": scale, "n_mels": 40}
        filters_QF = torchaudio.functional.melscale_fbanks(1025, 0.0, 22_050.0, 40, 44_100, mel_scale=scale).numpy()
        edges_hz, bins_hz = mel_edges_hz(front_end), np.linspace(0, 22_050, 1025)
        for k in range(40):
            heard_hz = bins_hz[filters_QF[:, k] > 1e-6]
            assert edges_hz[k] - 0.1 <= heard_hz.min()
            assert heard_hz.max() <= edges_hz[k + 2] + 0.1
            assert abs(bins_hz[filters_QF[:, k].argmax()] - edges_hz[k + 1]) <= 22_050 / 1024

    def test_an_unknown_mel_scale_is_refused(self):
        with pytest.raises(UserError, match="unknown mel scale 'bark'"):
            mel_edges_hz(dataclasses.asdict(PAPER) | {"mel_scale": "bark"})

    @pytest.mark.parametrize(
        ("notation", "cuts"),
        [
            (LARGE, {128.0: [1, 2, 3, 4, 5]}),
            ("dssdn_c16-24-32_r0.25-0.75_osc.m6_h64_high", {192.0: [1], 64.0: [2]}),
            ("dssdn_c28-44-60_r0.5_sc_h64_concat", {128.0: [1]}),
            ("dssdn_c28-44-60_r1-0.25_sc_h64", {64.0: [2]}),
            ("dssdn_c28-44_r1_conv_h64_plain", {}),
        ],
    )
    def test_cuts_lie_at_their_bins(self, notation, cuts):
        assert mel_cuts(Architecture.parse(notation), 64, 256) == cuts

    def test_the_figure_has_seconds_kilohertz_and_the_cut(self):
        logmel_TF = np.random.default_rng(0).normal(size=(216, 256)).astype(np.float16)
        figure = logmel_figure(logmel_TF, dataclasses.asdict(PAPER), {128.0: [1, 2]}, "high", synthetic=True)
        [picture] = figure.data
        assert picture.z.shape == (256, 216)
        assert picture.z.dtype == np.uint8
        assert picture.dx == pytest.approx(1024 / 44_100)
        assert (figure.layout.xaxis.title.text, figure.layout.yaxis.title.text) == ("time (s)", "frequency (kHz)")
        ticks = dict(zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals, strict=True))
        peaks_hz = mel_edges_hz(dataclasses.asdict(PAPER))[1:-1]
        assert abs(peaks_hz[int(ticks["1"])] - 1000) < 20
        assert [shape.y0 for shape in figure.layout.shapes] == [128.0]
        assert figure.layout.annotations[0].text == "cut of blocks 1–2, heavy above"
        assert figure.layout.title.text == "synthetic data"

    def test_values_that_are_no_numbers_are_drawn_as_silence(self):
        logmel_TF = np.array([[0.0, np.nan], [-np.inf, -1.0]])
        front_end = dataclasses.asdict(PAPER) | {"n_mels": 2}
        [picture] = logmel_figure(logmel_TF, front_end).data
        assert picture.z[:, 0].tolist() == [255, 0]
        assert picture.z[0, 1] == 0
