"""Scores of networks that nobody has trained (zero-cost proxies): what their initial weights and a batch of clips say.
B clips, K classes.

Each is known to go with size above all, so it means nothing without the rank correlation of params beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from search_space.blocks import plain
from trainers.datasets import Dataset
from trainers.features import Features
from trainers.inputs import load_inputs
from trainers.loop import seeded_model

# Source: Mellor et al., 2021, their code's default.
CLIPS = 128


def score_untrained(
    networks: Iterable[str],
    dataset: Dataset,
    features: Features,
    train_input: tuple[int, int],
    seed: int,
    device: torch.device,
) -> Iterator[dict[str, float]]:
    """`synflow` and `naswot` of each network with its initial weights of that seed, at `train_input` (frames x mels).

    naswot sees a fixed, stratified batch of training clips, normalised; val and test are not read.
    """
    inputs = load_inputs(dataset, features, size=train_input, splits=("train",), train_clips=CLIPS)
    split = inputs.splits["train"]
    everything = torch.arange(min(CLIPS, len(split)))
    logmel_B1TF = inputs.normalise(split.batch(everything, device)).unsqueeze(1)
    for network in networks:
        model = seeded_model(network, len(dataset.classes), seed, train_input[1]).to(device)
        yield {"synflow": synflow(model, train_input), "naswot": naswot(model, logmel_B1TF)}


@torch.enable_grad()
def synflow(model: nn.Module, size: tuple[int, int]) -> float:
    """log10 of the synaptic flow of a freshly initialised network at an input of `size` (frames x mels), higher is said
    to be better.

    With every parameter replaced by its absolute value and a clip of ones, R is the sum of the logits; the score is the
    sum of w dR/dw over the weights of convolutions and linear layers. Batch norm is left out, as it would rescale what
    is measured; in float64, since the products of layers are large. The model is left as it was. -inf where no flow
    comes through.

    Source: Tanaka et al., 2020 (arXiv 2006.05467), eq. 2, read off as a network's score by Abdelfattah et al., 2021
    (arXiv 2101.08134), whose code leaves batch norm out and takes the absolute biases along without counting them. The
    attention's sigmoid is no linear layer, so the flow is not conserved there as in the paper. Our own: the logarithm,
    which changes no rank.
    """
    flow = plain(model).eval().double()
    _without_norms(flow)
    for parameter in flow.parameters():
        parameter.requires_grad_(True)
        parameter.data.abs_()
    logits_1K = flow(torch.ones(1, 1, *size, dtype=torch.float64, device=next(flow.parameters()).device))
    weights = [
        layer.weight
        for layer in flow.modules()
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear) and layer.weight is not None
    ]
    gradients = torch.autograd.grad(logits_1K.sum(), weights, allow_unused=True)
    total = sum(
        float((weight.detach() * gradient).sum())
        for weight, gradient in zip(weights, gradients, strict=True)
        if gradient is not None
    )
    return math.log10(total) if total > 0 else -math.inf


@torch.no_grad()
def naswot(model: nn.Module, logmel_B1TF: Tensor) -> float:
    """The log-determinant of how alike a freshly initialised network's ReLUs see the clips, higher is said to be
    better.

    A clip's code is which of all ReLUs it switches on; the kernel (B, B) counts the ReLUs that two clips have alike,
    which is their number less the Hamming distance. In training mode, so that batch norm takes the batch's own
    statistics, as it would at the first step. The model is left as it was. -inf where two clips are the same to every
    ReLU.

    Source: Mellor et al., 2021 (arXiv 2006.04647v3), eq. 2, and its authors' code.
    """
    seen = plain(model).train()
    number = len(logmel_B1TF)
    kernel_BB = torch.zeros(number, number, dtype=torch.float64)

    def count_alike(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        code_BR = (arguments[0].flatten(1) > 0).float()
        # Both on, or both off: exact in float32 up to 2**24 ReLUs a layer.
        alike_BB = code_BR @ code_BR.T + (1 - code_BR) @ (1 - code_BR).T
        kernel_BB.add_(alike_BB.double().cpu())

    for module in seen.modules():
        if isinstance(module, nn.ReLU):
            module.register_forward_pre_hook(count_alike)
    seen(logmel_B1TF)
    return float(torch.linalg.slogdet(kernel_BB).logabsdet)


def _without_norms(model: nn.Module) -> None:
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d | nn.BatchNorm1d):
                setattr(parent, name, nn.Identity())
