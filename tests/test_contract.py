"""The contract of every network, made of the registries: each operator with each choice of each option, the networks of every family, comparators.

All go through the one door by name, `build_model` and `count_network`: shapes at four inputs, batch items independent, a batch of
one, a gradient for every parameter, the three ways of counting, and a name that is read back to the same network.
"""

import functools
import json

import pytest
import torch
import torchinfo
from fvcore.nn import FlopCountAnalysis

from search_space import NETWORKS, build_model, resolve
from search_space.blocks import plain
from search_space.comparators import COMPARATORS
from search_space.complexity import CONVENTIONS, count_module, count_network
from search_space.describe import describe
from search_space.errors import UserError
from search_space.inference import inference_form
from search_space.operators import OPERATORS
from search_space.presets import CP_MOBILE, DESCRIBED, RELATED, REP_MOBILE, check_network, recorded


def operator_networks(name):
    """A thin network of three blocks, cut in different ways, for each choice of each of an operator's options, by notation."""
    options = OPERATORS[name].options()
    first = {option.name: option.choices[0] if option.default is None else option.default for option in options}
    choices = [first, *({**first, option.name: choice} for option in options for choice in option.choices)]
    for chosen in choices:
        letters = (f".{o.letter}{chosen[o.name]}" for o in options if chosen[o.name] != o.default)
        yield f"dssdn_c8-9-12-13_r0.25-1-0.5_{name}{''.join(letters)}_h16_high"


OF_OPERATORS = {text.split("_")[3]: text for name in OPERATORS for text in operator_networks(name)}
STRUCTURES = {
    "unpooled": "dssdn_c8-9-12_r1_conv_h16_p1x1_plain",
    "add": "dssdn_c8-9-12-12-12-12_r0.5_sc_h16_add",
    "concat": "dssdn_c8-9-12-13-12-12_r0.5-1-0.5-0.5-0.5_sc.g0_h16_high_concat_p2x2-1x1-1x2-2x2-2x2",
    "pools": "dssdn_c8-9-12-12-12_r0.25_sc_h16_p2x1-1x2-1x1-2x2",
    "taps": "dssdn_c8-9-12-12_r0.5_sc_h16_t1-3",
    "eca5": "dssdn_c8-9-12_r0.5_sc_h16_eca5",
    "eca0": "dssdn_c8-9-12_r0.5_sc_h16_eca0",
    "plain": "dssdn_c8-9-12_r1_sc.d2_h16_plain",
    "chain": "dssdn_c8-9-12_r0.5-1_osc.m4_h16_high_eca3_chain",
}
MOBILE = {
    **{name: name for name in (*CP_MOBILE, *REP_MOBILE)},
    "cpm-pruned": "cpm_c3-7-7-10-9_b2-1-2_x5-11-13-1-6",
    "repm-pruned": "repm_c3-7-7-7-10_b1-2-1_x5-11-13-2_p1x2-2x2-1x1-1x1",
}
STAGED = {
    **{name: name for name in RELATED},
    "cpr-grouped": "cpr_c6-6-12-9_b3-1-2_k11-33-13-31-33-13_g3-2-1",
    "bcr-deep": "bcr_c7-5-5-8_b1-2-1_p2-1-2",
    "tfs-deep": "tfs_c3-12-12-8_b1-2_p2-1",
}
FAMILY = {**{name: name for name in NETWORKS}, **OF_OPERATORS, **STRUCTURES}
NOTED = {**FAMILY, **MOBILE, **STAGED}
EVERY = {**NOTED, **{name: name for name in COMPARATORS}}
SIZES = [(32, 32), (33, 47), (44, 64), (65, 40)]  # the classics halve their maps five times

TABLE_1 = ("resnet34", "mobilenet-v1", "mobilenet-v2", "mobilenet-v3", "inception-v1")

STILL = {name: ("fuse.bias",) for name in COMPARATORS if name.startswith("dsmn")}
STILL |= {OF_OPERATORS["rep"]: tuple(f"branches.{index}.norm.bias" for index in range(4))}
"""Ends of parameters whose gradient is zero but for rounding: biases that the batch norm right behind them takes away."""
DEAD = {"inception-v1": ("after_early.", "after_middle.")}
"""Beginnings of parameters that take no part: the auxiliary heads, counted as published and not trained."""

LEAST = {
    **dict.fromkeys(TABLE_1, 32),
    **{"sp4asc": 16, "cp-resnet": 3, STAGED["cpr-grouped"]: 3},
}
"""The least frames and mels of networks that do not read every size."""

every_network = pytest.mark.parametrize("network", EVERY.values(), ids=EVERY)
every_size = pytest.mark.parametrize("size", SIZES, ids="{0[0]}x{0[1]}".format)


@functools.cache
def built(network, n_mels):
    """A network of seven classes; tests leave its weights and its statistics alone."""
    torch.manual_seed(0)
    return build_model(network, 7, n_mels)


def clips(count, size):
    return torch.randn(count, 1, *size, generator=torch.Generator().manual_seed(1))


def counted(network, n_mels):
    """The network in the form that is counted, layers of its own as ordinary ones."""
    model = built(network, n_mels).eval()
    return plain(inference_form(model) if network in MOBILE.values() else model)


def fvcores(model, size):
    """MACs of one clip as fvcore 0.1.5 counts them on its trace: of convolutions and linear layers, and all of them."""
    analysis = FlopCountAnalysis(model.eval(), torch.zeros(1, 1, *size))
    by_operator = analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False).by_operator()
    return by_operator["conv"] + by_operator["linear"], sum(by_operator.values())


@every_network
@every_size
def test_eval_gives_each_clip_its_own_logits(network, size):
    model, x = built(network, size[1]).eval(), clips(3, size)
    with torch.no_grad():
        logits = model(x)
        scale = logits.abs().max()
        assert logits.shape == (3, 7)
        assert logits.isfinite().all()
        assert (model(x[1:2]) - logits[1:2]).abs().max() < 1e-4 * scale
        x[0] = 0
        assert (model(x)[1:] - logits[1:]).abs().max() < 1e-4 * scale


@every_network
@every_size
def test_gradient_reaches_every_parameter(network, size):
    torch.manual_seed(2)  # of dropout
    model = built(network, size[1]).train()
    model.zero_grad()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(clips(4, size)).square().sum().backward()
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])
    dead = tuple(DEAD.get(network, ()))
    missing = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == [n for n, _ in model.named_parameters() if n.startswith(dead) and dead]
    still = [n for n, p in model.named_parameters() if n not in missing and not p.grad.any()]
    assert [n for n in still if not n.endswith(STILL.get(network, ("-",)))] == []


@every_network
def test_three_ways_of_counting_agree_with_their_tools(network):
    size = (44, 64)
    cost, model = count_network(network, size, 7), counted(network, 64)
    assert tuple(cost.macs_by) == CONVENTIONS
    assert (cost.macs, cost.macs_by["fvcore"]) == fvcores(model, size)
    assert cost.macs == cost.macs_by["conv+linear"]
    official = torchinfo.summary(model, (1, 1, *size), verbose=0, device="cpu")
    assert (cost.macs_by["dcase"], cost.params) == (official.total_mult_adds, official.total_params)
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())
    assert cost.params == sum(row.params for row in cost.layers)
    assert cost.macs == sum(row.macs for row in cost.layers)


@pytest.mark.parametrize("network", NOTED.values(), ids=NOTED)
@every_size
def test_the_count_from_the_notation_is_the_count_of_the_built_network(network, size):
    by_notation, traced = count_network(network, size, 7), count_module(counted(network, size[1]), (1, *size))
    assert traced._replace(layers=()) == by_notation._replace(layers=())


@every_network
def test_what_is_recorded_is_read_back_to_the_same_network(network):
    text = recorded(network)
    check_network(text)
    torch.manual_seed(0)
    again, model = build_model(text, 7, 32), built(network, 32)
    assert str(again) == str(model)
    weights, expected = dict(again.named_parameters()), dict(model.named_parameters())
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in weights)
    assert count_network(text, (44, 64)) == count_network(network, (44, 64))
    if network not in COMPARATORS:
        assert resolve(text) == resolve(network) == again.architecture
        assert str(resolve(text)) == text


@every_network
def test_what_a_network_cannot_read_is_explained(network):
    model = built(network, 32).eval()
    for x in (torch.zeros(1, 3, 32, 32), torch.zeros(1, 2, 32, 32), torch.zeros(1, 32, 32)):
        with pytest.raises(UserError, match=r"takes maps of 1 channel, \(B, 1, T, F\); got \(1, "):
            model(x)


@every_network
def test_the_smallest_input_runs_and_a_smaller_one_is_explained(network):
    least = LEAST.get(network, 1)
    with torch.no_grad():
        logits = built(network, least).eval()(clips(2, (least, least)))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    for size in ((least - 1, 32), (32, least - 1)):
        with pytest.raises(UserError, match=r"at least"):
            count_network(network, size, 7)
        with pytest.raises(UserError, match=r"at least"):
            built(network, max(size[1], 1)).eval()(clips(2, size))


@every_network
@pytest.mark.parametrize(("n_classes", "n_mels"), [(0, 32), (-1, 32), (1.5, 32), (None, 32), (10, 0), (10, "32")])
def test_sizes_that_cannot_be_are_explained(network, n_classes, n_mels):
    with pytest.raises(UserError, match=r"at least 2 classes|at least 1 of its mels"):
        build_model(network, n_classes, n_mels)
    with pytest.raises(UserError, match=r"at least 2 classes|at least 1 of its mels"):
        count_network(network, (32, n_mels), n_classes)


@every_network
def test_it_is_described(network):
    described, cost = describe(network, (44, 64), 7), count_network(network, (44, 64), 7)
    assert json.dumps(described)
    assert described["architecture"] == (None if network in COMPARATORS else recorded(network))
    assert described["preset"] == (network if network in (*DESCRIBED, *COMPARATORS) else None)
    assert (described["params"], described["macs"]) == (cost.params, cost.macs)
    assert described["macs"] == sum(layer["macs"] for layer in described["layers"])
    assert described["params"] == sum(layer["params"] for layer in described["layers"])


@every_network
def test_stages_are_modules_that_run_in_their_order(network):
    """What a teacher's features are taken from: maps (B, C, T, F)."""
    model, shapes = built(network, 32).eval(), []
    for number, stage in enumerate(model.stages):
        stage.register_forward_hook(lambda *call, number=number: shapes.append((number, call[2].ndim, len(call[2]))))
    with torch.no_grad():
        model(clips(2, (40, 32)))
    for stage in model.stages:
        stage._forward_hooks.clear()
    assert shapes == [(number, 4, 2) for number in range(len(shapes))]
    assert len(shapes) == len(list(model.stages)) > 0


@every_network
def test_weights_are_contiguous(network):
    """As safetensors asks, whatever layout the maps have."""
    assert all(tensor.is_contiguous() for tensor in built(network, 32).state_dict().values())


def test_every_choice_of_every_option_is_here():
    for name, operator in OPERATORS.items():
        drawn = [
            resolve(text).blocks[0].module for text in OF_OPERATORS.values() if text.split("_")[3].split(".")[0] == name
        ]
        for option in operator.options():
            assert {getattr(module, option.name) for module in drawn} == set(option.choices)
