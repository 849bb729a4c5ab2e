"""Every operator against its equation written plainly, and the registry: adding an operator is one decorated class."""

import re
from pathlib import Path

import pytest
import test_contract
import torch
from torch.nn.functional import conv2d

from search_space import Architecture, build_model, operators
from search_space.blocks import ChannelAttention, Cross, OrthonormalConv2d, orthonormal_penalty, plain
from search_space.complexity import count_module, eca_kernel
from search_space.operators import OPERATORS
from search_space.space import Space


def sc(x, p, s_time, s_mel, dilation=1, groups=1):
    """Eq. 1: s3x1(p1x1(x)) + s1x3(p1x1(x))."""
    d, c_out = dilation, len(p)
    return conv2d(conv2d(x, p, groups=groups), s_time, padding=(d, 0), dilation=(d, 1), groups=c_out) + conv2d(
        conv2d(x, p, groups=groups), s_mel, padding=(0, d), dilation=(1, d), groups=c_out
    )


def osc(x, m, n, s_time, s_mel):
    """Eq. 2: s3x1(n1x1(m1x1(x))) + s1x3(n1x1(m1x1(x)))."""
    c_out = len(n)
    return conv2d(conv2d(conv2d(x, m), n), s_time, padding=(1, 0), groups=c_out) + conv2d(
        conv2d(conv2d(x, m), n), s_mel, padding=(0, 1), groups=c_out
    )


def spc(x, c_dim, p_dim, s_time, s_mel, p):
    """Eq. 3: p1x1(f(x') u x''), f an SC on the first c_dim channels x'."""
    return conv2d(torch.cat([sc(x[:, :c_dim], p_dim, s_time, s_mel), x[:, c_dim:]], dim=1), p)


def rep(x, module):
    """The four branches, each with its batch norm as in training."""
    x = conv2d(x, module.pointwise.weight)
    y = 0
    for branch, padding in zip(module.branches.branches, ((1, 1), (0, 0), (1, 0), (0, 1)), strict=True):
        z = conv2d(x, branch.conv.weight, padding=padding, groups=x.shape[1])
        mean, var = z.mean((0, 2, 3), keepdim=True), z.var((0, 2, 3), correction=0, keepdim=True)
        y = y + (z - mean) / (var + branch.norm.eps).sqrt()
    return y


EQUATIONS = {
    "sc": lambda x, m: sc(x, m.pointwise.weight, *crossed(m)),
    "sc.d2": lambda x, m: sc(x, m.pointwise.weight, *crossed(m), dilation=2),
    "sc.g2": lambda x, m: sc(x, m.pointwise.weight, *crossed(m), groups=2),
    "sc.d2.g0": lambda x, m: sc(x, m.pointwise.weight, *crossed(m), dilation=2, groups=10),
    "osc.m6": lambda x, m: osc(x, m.squeeze.weight, m.expand.weight, *crossed(m)),
    "spc.p0.25": lambda x, m: spc(x, 5, m.partial.pointwise.weight, *crossed(m.partial), m.pointwise.weight),
    "conv": lambda x, m: conv2d(x, m.conv.weight, padding=1),
    "rep": rep,
}


def crossed(module):
    return module.cross.along_time, module.cross.along_mel


def operator(notation):
    return Architecture.parse(f"dssdn_c8-8_r0.5_{notation}_h8").blocks[0].module


def with_first_options(name):
    return OPERATORS[name](**{option.name: option.choices[0] for option in OPERATORS[name].options()})


@pytest.mark.parametrize("notation", EQUATIONS)
@pytest.mark.parametrize("size", [(9, 7), (2, 1), (1, 1)])
def test_operator_is_its_equation(notation, size):
    module = operator(notation).build(20, 10).double()
    x = torch.randn(3, 20, *size, dtype=torch.float64)
    torch.testing.assert_close(module(x), EQUATIONS[notation](x, module))


def test_every_operator_has_its_equation_here():
    assert {notation.split(".")[0] for notation in EQUATIONS} == set(OPERATORS)


@pytest.mark.parametrize(
    ("g", "c_in", "c_out", "groups"), [(1, 8, 8, 1), (2, 8, 6, 2), (4, 6, 9, 1), (0, 8, 4, 4), (0, 9, 6, 3)]
)
def test_groups_are_the_most_that_the_widths_allow(g, c_in, c_out, groups):
    """groups 0 with c_in = c_out or twice that is DSMN's form: as many groups as output channels."""
    module = operator(f"sc.g{g}").build(c_in, c_out)
    assert module.pointwise.groups == groups
    assert module.pointwise.weight.shape == (c_out, c_in // groups, 1, 1)


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("c_in", [2, 7, 20])
def test_operator_costs_what_it_is_built_of(name, c_in):
    operator = with_first_options(name)
    rows = list(operator.cost("operator", c_in, (9, 5, 4)))
    module = plain(operator.build(c_in, 9))
    assert sum(row.params for row in rows) == sum(parameter.numel() for parameter in module.parameters())
    biases = sum(parameter.numel() for name, parameter in module.named_parameters() if name.endswith("bias"))
    assert sum(row.macs for row in rows) == (sum(row.params for row in rows) - biases) * 5 * 4
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


def test_the_floor_of_a_share_is_not_one_less_by_floating_point():
    shares = [(ratio / 100, c_in) for ratio in range(1, 101) for c_in in range(2, 201)]
    assert {(r, c): OPERATORS["spc"](r).maps(c, 8)[0].channels for r, c in shares} == {
        (r, c): max(round(100 * r) * c // 100, 1) for r, c in shares
    }


@pytest.mark.parametrize("dilation", [1, 2])
def test_the_fused_cross_is_the_two_convolutions_it_is_traced_as(dilation):
    module = Cross(5, dilation).double()
    x = torch.randn(2, 5, 6, 7, dtype=torch.float64)
    traced = torch.jit.trace(module, x)
    assert str(traced.inlined_graph).count("aten::_convolution") == 2
    torch.testing.assert_close(module(x), traced(x))


def test_the_plain_form_has_ordinary_layers_and_computes_the_same():
    model, x = build_model("dssdn_c8-10-12_r0.5_sc.d2-spc.p0.25_h8").eval(), torch.randn(2, 1, 16, 12)
    copied = plain(model)
    assert any(isinstance(module, Cross) for module in model.modules())
    assert not any(isinstance(module, Cross) for module in copied.modules())
    own = [m for m in copied.modules() if any(True for _ in m.parameters(recurse=False))]
    assert {type(m).__name__ for m in own} == {"Conv2d", "Conv1d", "BatchNorm2d", "Linear"}
    torch.testing.assert_close(copied(x), model(x))
    alone = plain(Cross(5))
    assert alone.along_time.weight.shape == (5, 1, 3, 1)


@pytest.mark.parametrize("notation", EQUATIONS)
@pytest.mark.parametrize("widths", [(20, 10), (8, 8), (7, 3)])
def test_operator_writes_the_maps_it_says(notation, widths):
    """An operator alone: its input is read by nothing else."""
    spec, (c_in, c_out) = operator(notation), widths
    maps = spec.maps(*widths)
    last_read = {read: index for index, made in enumerate(maps, start=1) for read in made.reads}
    sizes = [c_in, *(made.channels for made in maps)]
    alive = [
        sum(size for k, size in enumerate(sizes) if k <= step <= max(last_read.get(k, 0), k))
        for step in range(1, len(sizes))
    ]
    assert maps[-1].channels == c_out
    cost = count_module(spec.build(*widths), (c_in, 9, 11))
    assert cost.peak_activations == 9 * 11 * max(alive)
    assert cost.receptive_field == (min(spec.extent, 9), min(spec.extent, 11))


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


@pytest.mark.parametrize("kernel", [1, 5])
def test_attention_takes_a_fixed_kernel(kernel):
    assert ChannelAttention(6, kernel).conv.weight.shape == (1, 1, kernel)


def test_orthonormal_penalty_is_zero_on_orthonormal_rows_and_the_norm_not_squared_elsewhere():
    model = build_model("dssdn_c8-8_r0.5_osc.m4_h8")
    layers = [module for module in model.modules() if isinstance(module, OrthonormalConv2d)]
    assert len(layers) == 3
    assert layers[0] is model.blocks[0].first.operator.squeeze
    with torch.no_grad():
        for layer in layers:
            layer.weight.copy_(torch.eye(4, 8)[:, :, None, None])
        assert orthonormal_penalty(model) == 0
        layers[0].weight.mul_(2)  # W W^T - I = 3 I, of norm 3 * sqrt(4) = 6; its square would be 36
    penalty = orthonormal_penalty(model)
    assert penalty.item() == pytest.approx(6)
    penalty.backward()
    assert all(torch.isfinite(layer.weight.grad).all() for layer in layers)
    assert orthonormal_penalty(build_model("dssdn_c8-8_r0.5_sc_h8")) is None


def test_adding_an_operator_is_the_one_class_that_the_readme_shows(monkeypatch):
    """It passes the contract, and nothing else has to know of it."""
    readme = (Path(__file__).parent.parent / "README.md").read_text("utf-8")
    (shown,) = (
        block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if block.startswith("@register")
    )
    name = re.search(r'name = "(\w+)"', shown)[1]
    monkeypatch.setitem(OPERATORS, name, None)  # given back afterwards
    del OPERATORS[name]
    exec(compile(shown, "README.md", "exec"), dict(vars(operators)))
    architecture = Architecture.parse(f"dssdn_c28-44-60-60-60-60_r0.5_{name}_h64")
    assert Space("dssdn", per_block=False).encode(architecture)["operator"] == name
    (network, *_) = test_contract.operator_networks(name)
    assert Architecture.parse(network).blocks[0].operator == name
    for size in test_contract.SIZES:
        test_contract.test_eval_gives_each_clip_its_own_logits(network, size)
        test_contract.test_gradient_reaches_every_parameter(network, size)
        test_contract.test_the_count_from_the_notation_is_the_count_of_the_built_network(network, size)
    test_contract.test_three_ways_of_counting_agree_with_their_tools(network)
    test_contract.test_what_is_recorded_is_read_back_to_the_same_network(network)
