"""Augmentation on whole batches of log-mels, where the data lies. Every draw comes from the generator that is handed in.

B batch, T frames, F mel bins, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainers.config import Recipe


def augment(
    logmel_BTF: Tensor, targets_BK: Tensor, recipe: Recipe, progress: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The batch as the network is to see it: rolled, masked and mixed as the recipe says; targets (B, K) mixed alike.

    `progress` is the share of the training that is over. Draws are made on the CPU, so they are the same on every device.
    """
    if recipe.roll:
        logmel_BTF = roll(logmel_BTF, generator)
    if recipe.masks and recipe.mask_width > 0:
        for axis in (1, 2):
            for _ in range(recipe.masks):
                logmel_BTF = mask(logmel_BTF, axis, recipe.mask_width, generator)
    if recipe.mixup_alpha > 0:
        mixed = len(logmel_BTF) if progress < recipe.mixup_half_from else len(logmel_BTF) // 2
        logmel_BTF, targets_BK = mixup(logmel_BTF, targets_BK, recipe.mixup_alpha, mixed, generator)
    return logmel_BTF, targets_BK


def roll(logmel_BTF: Tensor, generator: torch.Generator) -> Tensor:
    """Each clip (T, F) shifted along time by its own number of frames, what leaves at one end entering at the other."""
    batch, frames, mels = logmel_BTF.shape
    shift_B1 = torch.randint(frames, (batch, 1), generator=generator).to(logmel_BTF.device)
    index_BT = (torch.arange(frames, device=logmel_BTF.device) + shift_B1) % frames
    return logmel_BTF.gather(1, index_BT[:, :, None].expand(-1, -1, mels))


def mask(logmel_BTF: Tensor, axis: int, width: float, generator: torch.Generator) -> Tensor:
    """One band of each clip set to 0, the mean after normalisation: up to a share `width` of the axis (1 time, 2 mel), at least one bin.

    Source: SpecAugment (Park et al., 2019), section 2; a band's width is uniform from 0 to the greatest, inclusive.
    """
    size = logmel_BTF.shape[axis]
    widest = max(1, round(width * size))
    draws_B1 = torch.rand(2, len(logmel_BTF), 1, generator=generator).to(logmel_BTF.device)
    width_B1 = (draws_B1[0] * (widest + 1)).floor()
    start_B1 = (draws_B1[1] * (size - width_B1 + 1)).floor()
    position = torch.arange(size, device=logmel_BTF.device)
    hidden = (position >= start_B1) & (position < start_B1 + width_B1)
    return logmel_BTF.masked_fill(hidden.unsqueeze(2 if axis == 1 else 1), 0.0)


def mixup(
    logmel_BTF: Tensor, targets_BK: Tensor, alpha: float, mixed: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The first `mixed` clips blended with a permutation of themselves by one share from Beta(alpha, alpha), targets alike.

    Source: mixup (Zhang et al., 2018), equation 1; one share a batch as in the DSMN code.
    """
    if mixed < 2:
        return logmel_BTF, targets_BK
    gammas = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    share = float(gammas[0] / gammas.sum()) if float(gammas.sum()) > 0 else 1.0
    partner = torch.randperm(mixed, generator=generator).to(logmel_BTF.device)
    logmel_BTF, targets_BK = logmel_BTF.clone(), targets_BK.clone()
    logmel_BTF[:mixed] = share * logmel_BTF[:mixed] + (1 - share) * logmel_BTF[:mixed][partner]
    targets_BK[:mixed] = share * targets_BK[:mixed] + (1 - share) * targets_BK[:mixed][partner]
    return logmel_BTF, targets_BK
