"""Every operator against its equation written plainly, and the registry: adding an operator is one decorated class."""

import re
from pathlib import Path

import pytest
import torch

from search_space import Architecture, build_model, count, operators
from search_space.blocks import ChannelAttention, Cross, orthonormal_penalty
from search_space.complexity import eca_kernel, fvcore_count
from search_space.operators import OPERATORS
from search_space.space import Space


def mix(x, weight):
    """p1x1(x): each output channel a weighted sum of input channels."""
    return torch.einsum("oc,bctf->botf", weight.flatten(1), x)


def slide(x, weight, dim):
    """A channel-wise convolution of three taps along one axis, zeros outside."""
    taps = weight.reshape(1, -1, 1, 1, 3)
    edge = torch.zeros_like(x.narrow(dim, 0, 1))
    size = x.shape[dim]
    padded = torch.cat([edge, x, edge], dim)
    return sum(taps[..., tap] * padded.narrow(dim, tap, size) for tap in range(3))


def cross(x, module):
    return slide(x, module.along_time, 2) + slide(x, module.along_mel, 3)


def sc(x, operator):
    """Eq. 1: s3x1(p1x1(x)) + s1x3(p1x1(x))."""
    return cross(mix(x, operator.pointwise.weight), operator.cross)


def osc(x, operator):
    """Eq. 2: s3x1(n1x1(m1x1(x))) + s1x3(n1x1(m1x1(x)))."""
    return cross(mix(mix(x, operator.squeeze.weight), operator.expand.weight), operator.cross)


def spc(x, operator):
    """Eq. 3: p1x1(f(x') u x''), f an SC."""
    c_part = operator.partial.channels
    return mix(torch.cat([sc(x[:, :c_part], operator.partial), x[:, c_part:]], 1), operator.pointwise.weight)


REFERENCES = {"sc": sc, "osc": osc, "spc": spc}


def with_first_options(name):
    return OPERATORS[name](**{option.name: option.choices[0] for option in OPERATORS[name].options()})


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("size", [(9, 7), (2, 1), (1, 1)])
def test_operator_is_its_equation(name, size):
    operator = with_first_options(name).build(20, 11).double()
    x = torch.randn(3, 20, *size, dtype=torch.float64)
    torch.testing.assert_close(operator(x), REFERENCES[name](x, operator))


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("c_in", [2, 7, 20])
def test_operator_costs_what_it_is_built_of(name, c_in):
    operator = with_first_options(name)
    rows = list(operator.cost("operator", c_in, (9, 5, 4)))
    module = operator.build(c_in, 9)
    assert sum(row.params for row in rows) == sum(parameter.numel() for parameter in module.parameters())
    assert sum(row.macs for row in rows) == sum(row.params for row in rows) * 5 * 4
    for row in rows:
        part = module.get_submodule(row.name.removeprefix("operator."))
        assert row.params == sum(parameter.numel() for parameter in part.parameters()), row.name


@pytest.mark.parametrize(("ratio", "channels"), [(0.125, 2), (0.25, 5), (0.5, 10), (0.01, 1), (1.0, 20)])
def test_spc_works_on_the_floor_of_its_share(ratio, channels):
    operator = OPERATORS["spc"](partial_ratio=ratio).build(20, 8)
    assert operator.partial.channels == channels
    x = torch.randn(1, 20, 4, 4)
    assert torch.equal(operator.partial(x)[:, channels:], x[:, channels:])
    assert not torch.equal(operator.partial(x)[:, :channels], x[:, :channels])


def test_the_fused_cross_is_the_two_convolutions_it_is_traced_as():
    module = Cross(5).double()
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    traced = torch.jit.trace(module, x)
    assert str(traced.inlined_graph).count("aten::_convolution") == 2
    torch.testing.assert_close(module(x), traced(x))


@pytest.mark.parametrize("channels", [2, 60, 127, 128, 511, 512, 2047, 2048])
def test_eca_kernel_is_its_formula(channels):
    t = int(abs(torch.tensor(float(channels), dtype=torch.float64).log2().item() / 2 + 1 / 2))
    assert eca_kernel(channels) == max(t if t % 2 else t + 1, 3)


def test_attention_is_its_equation():
    module, x = ChannelAttention(6).double(), torch.randn(2, 6, 5, 4, dtype=torch.float64)
    taps = module.conv.weight.flatten()
    means = torch.nn.functional.pad(x.mean((2, 3)), (1, 1))
    scale = torch.sigmoid(taps[0] * means[:, :-2] + taps[1] * means[:, 1:-1] + taps[2] * means[:, 2:])
    torch.testing.assert_close(module(x), x * scale[:, :, None, None])


def test_orthonormal_penalty_is_zero_on_orthonormal_rows_and_the_norm_elsewhere():
    model = build_model("dssdn_c8-8_r0.5_osc.m4_h8")
    layers = [module for module in model.modules() if hasattr(module, "penalty")]
    assert len(layers) == 3
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.eye(4, 8)[:, :, None, None])
        assert orthonormal_penalty(model) == 0
        layers[0].weight.mul_(2)  # W W^T - I = 3 I, of norm 3 * sqrt(4)
    penalty = orthonormal_penalty(model)
    assert penalty.item() == pytest.approx(6)
    penalty.backward()
    assert all(torch.isfinite(layer.weight.grad).all() for layer in layers)
    assert orthonormal_penalty(build_model("dssdn_c8-8_r0.5_sc_h8")) is None


def test_adding_an_operator_is_the_one_class_that_the_readme_shows(monkeypatch):
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    (shown,) = (
        block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if block.startswith("@register")
    )
    monkeypatch.setitem(OPERATORS, "conv", None)  # given back afterwards
    del OPERATORS["conv"]
    exec(compile(shown, "README.md", "exec"), dict(vars(operators)))
    architecture = Architecture.parse("dssdn_c28-44-60-60-60-60_r0.5_conv_h64")
    assert str(architecture) == "dssdn_c28-44-60-60-60-60_r0.5_conv_h64"
    model, cost = build_model(architecture), count(architecture, (20, 16))
    assert cost.params == sum(parameter.numel() for parameter in model.parameters())
    assert cost.macs == fvcore_count(model, (20, 16))
    assert Space("dssdn", per_block=False).encode(architecture)["operator"] == "conv"
    # DL-O of the paper's Table 2, whose plain convolutions these are: 0.38 M and 2.45 G.
    paper = count(architecture, (431, 256))
    assert paper.params == pytest.approx(0.38e6, rel=0.06)
    assert paper.macs == pytest.approx(2.45e9, rel=0.06)
