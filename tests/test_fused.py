"""The fast forms are the plain ones: outputs, gradients and running statistics, against the network written as its equations read."""

import copy
import random

import pytest
import torch
from torch import nn

from benchmarks.reference import reference
from search_space import build_model, fused
from search_space.blocks import DistillationBlock, RepConv, plain
from search_space.comparators import COMPARATORS
from search_space.inference import inference_form
from search_space.presets import CP_MOBILE, NETWORKS, PRESETS, RELATED, REP_MOBILE
from search_space.space import get_space


def sampled(number):
    rng, space = random.Random(0), get_space("dssdn-wide")
    return [str(space.sample(lambda _, options: rng.choice(options))) for _ in range(number)]


OPTIONS = [
    "dssdn_c8-9-12_r0.25_sc.d2_h16",
    "dssdn_c8-10-12_r0.625_sc.g2_h16_high",
    "dssdn_c8-10-12_r0.5_sc.g0_h16_add",
    "dssdn_c8-9-13-12_r0.5-1-0.5_sc_h16_high_concat_p2x2-1x1-1x2",
    "dssdn_c8-9-12_r0.5_osc.m4_h16_t1-2_eca0",
    "dssdn_c8-9-12_r0.375_spc.p0.25_h16_p2x1-1x2_eca5",
    "dssdn_c8-9-12_r0.75_conv_h16",
    "dssdn_c8-9-12_r0.625_rep_h16",
    "dssdn_c8-9-12_r1_sc_h16_plain",
    "dssdn_c8-9-13_r0.5-1_spc.p0.25_h16_high_chain",
]


@pytest.fixture(autouse=True)
def _small_maps_too(monkeypatch):
    """Small maps would take the layers one by one."""
    monkeypatch.setattr(fused, "SMALL", 0)


ODD_SIZES = [(2, 65, 7), (1, 65, 7), (3, 9, 1), (2, 12, 13)]
every_network = pytest.mark.parametrize("network", [*PRESETS, "dl-o", *OPTIONS, *sampled(12)])


def trained_step(network, dtype, size, form=lambda model: model, seed=0):
    """Logits, gradients and running statistics of one step, by the names in the built model."""
    torch.manual_seed(seed)
    model = build_model(network, 7).double()
    x, weight = torch.randn(size[0], 1, *size[1:], dtype=torch.float64), torch.randn(size[0], 7, dtype=torch.float64)
    run = form(model.to(dtype)).train()
    logits = run(x.to(dtype))
    (logits * weight.to(dtype)).sum().backward()
    found = run.named_gradients() if hasattr(run, "named_gradients") else {n: p.grad for n, p in run.named_parameters()}
    buffers = {name.replace("/", "."): buffer for name, buffer in run.named_buffers()}
    return logits, found, buffers


def error(found, expected):
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))


@every_network
@pytest.mark.parametrize("size", ODD_SIZES, ids=str)
def test_a_step_is_the_reference_s_in_float64(network, size):
    logits, gradients, buffers = trained_step(network, torch.float64, size)
    expected, by_name, kept = trained_step(network, torch.float64, size, reference)
    assert error(logits, expected) < 1e-10
    whole = sum(float(g.square().sum()) for g in by_name.values() if g is not None) ** 0.5
    for name, gradient in by_name.items():
        if gradient is not None:  # beside it, what is zero but for rounding, as biases before a batch norm
            assert (gradients[name] - gradient).norm() < 1e-8 * gradient.norm() + 1e-10 * whole, name
    for name in buffers:
        if "running" in name:  # the mean behind normed branches is zero but for rounding
            assert error(buffers[name], kept[name]) < 1e-9 or max(buffers[name].norm(), kept[name].norm()) < 1e-12, name


@pytest.mark.parametrize("network", [*PRESETS, "dl-o", *OPTIONS, *sampled(4)])
def test_a_step_is_the_reference_s_in_float32(network):
    """A value within rounding of zero may fall on either side of a ReLU, and its gradient with it: the best of draws counts. All gradients
    together are within 1e-5, each tensor (beside a hundredth of the whole, what is zero but for rounding) within 6e-5: torch's layers one by
    one in this layout are as far (1e-5 to 6e-5)."""
    together, apart = [], []
    for seed in range(5):
        logits, gradients, _ = trained_step(network, torch.float32, (4, 45, 40), seed=seed)
        expected, by_name, _ = trained_step(network, torch.float64, (4, 45, 40), reference, seed=seed)
        assert error(logits, expected) < 1e-5
        exact = {name: gradient for name, gradient in by_name.items() if gradient is not None}
        together.append(error(*(torch.cat([g[n].double().flatten() for n in exact]) for g in (gradients, exact))))
        whole = sum(float(gradient.square().sum()) for gradient in exact.values()) ** 0.5
        apart.append(max(float((gradients[n] - g).norm() / (g.norm() + 1e-2 * whole)) for n, g in exact.items()))
    assert min(together) < 1e-5
    assert min(apart) < 6e-5


def test_the_plain_form_s_gradients_are_the_fast_form_s():
    size = (2, 20, 16)
    _, gradients, _ = trained_step("dssdn-middle", torch.float64, size)
    _, by_name, _ = trained_step("dssdn-middle", torch.float64, size, plain)
    assert len(gradients) == len(by_name)
    for name, gradient in gradients.items():
        other = by_name[name] if name in by_name else by_name[f"{name}.weight"]
        assert (gradient is None) == (other is None), name
        assert gradient is None or (gradient - other).norm() < 1e-9 * (1 + other.norm()), name


def test_a_training_step_in_bfloat16_is_near_the_exact_one():
    torch.manual_seed(0)
    model, x = build_model("dssdn-large"), torch.randn(8, 1, 43, 64)
    gradients = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(x)
        logits.float().square().sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert error(gradients[1], gradients[0]) < 0.15


def test_a_step_twice_is_the_same_to_the_bit():
    for network in ("dssdn-large", "dssdn-middle"):
        first, again = (trained_step(network, torch.float32, (4, 43, 64)) for _ in range(2))
        assert torch.equal(first[0], again[0])
        assert all(torch.equal(first[1][name], again[1][name]) for name in first[1])


def test_one_value_a_channel_is_refused_as_batch_norm_refuses_it():
    block = build_model("dssdn_c8-9_r0.5_sc_h16").blocks[0]
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        block(torch.randn(1, 8, 1, 1))


def test_a_kept_gradient_is_not_written_over():
    """A gradient handed back may be somebody else's too."""
    block = build_model("dssdn_c8-8_r0.5_spc.p0.25_h16_p1x1").blocks[0].double()
    assert isinstance(block, DistillationBlock)
    x = torch.randn(2, 8, 6, 5, dtype=torch.float64, requires_grad=True)
    gradient = torch.randn(2, 8, 6, 5, dtype=torch.float64)
    before = gradient.clone()
    block(x).backward(gradient)
    assert torch.equal(gradient, before)


def settled(network):
    """A model whose norms have something to fold."""
    torch.manual_seed(0)
    model = build_model(network, 7)
    for name, parameter in model.named_parameters():
        if name.endswith(("alpha", "gamma", "beta")):
            nn.init.normal_(parameter)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
    return model.eval()


def by_branches(model):
    """A copy of a model in eval mode that sums the branches it is trained with."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, RepConv):
            module.forward = module.sum_of_branches
    return model


class TestInference:
    @pytest.mark.parametrize("network", [*(n for n in NETWORKS if n != "dl-b"), *OPTIONS, *sampled(20)])
    @pytest.mark.parametrize("size", [(2, 65, 7), (1, 20, 64), (2, 9, 1)], ids=str)
    def test_its_logits_are_the_model_s(self, network, size):
        model, x = settled(network), torch.randn(size[0], 1, *size[1:])
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with torch.no_grad():
            expected = reference(model)(x)
            assert error(inference_form(model)(x), expected) < 1e-5
            assert error(model(x), expected) < 1e-5
        assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())

    def test_nothing_is_normalised_any_more(self):
        form = inference_form(settled("dssdn-large"))
        assert not any(isinstance(module, nn.BatchNorm2d) for module in form.modules())
        assert not any(parameter.requires_grad for parameter in form.parameters())

    @pytest.mark.parametrize("name", COMPARATORS)
    def test_comparators_pass_through_unharmed(self, name):
        torch.manual_seed(0)
        model, x = build_model(name, 5, 32).eval(), torch.randn(2, 1, 40, 32)
        with torch.no_grad():
            assert torch.equal(inference_form(model)(x), model(x))

    @pytest.mark.parametrize("name", [*RELATED, *CP_MOBILE, *REP_MOBILE, "dssdn_c8-9-12_r0.25-1_rep_h16"])
    def test_norms_and_branches_fold_into_convolutions(self, name):
        model, x = settled(name), torch.randn(2, 1, 43, 40)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        form = inference_form(model)
        with torch.no_grad():
            assert error(form(x), model(x)) < 1e-5
            assert error(form(x), by_branches(model)(x)) < 1e-5
        assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
        assert not any(isinstance(module, nn.BatchNorm2d | RepConv) for module in form.modules())
        assert not any(parameter.requires_grad for parameter in form.parameters())

    def test_a_layer_around_the_network_stays(self):
        model, x = nn.Sequential(nn.BatchNorm2d(1), settled("dssdn-small")).eval(), torch.randn(2, 1, 20, 16)
        model[0].running_mean.fill_(3.0)
        form = inference_form(model)
        with torch.no_grad():
            assert error(form(x), model(x)) < 1e-5
        assert isinstance(form[0], nn.BatchNorm2d)
