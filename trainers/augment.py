"""Augmentation on whole batches of log-mels, where the data lies. Every draw comes from the generator that is handed in, once a batch, so
that recipes which differ in one augmentation see the same clips in the same order, and the other augmentations draw what they drew.

B batch, T frames, F mel bins, K classes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainers.config import Recipe

# Source: mixup without hesitation (Yu et al., 2021), algorithm 1 with p = 0.6, q = 0.9.
ALWAYS_UNTIL, EVERY_OTHER_UNTIL = 0.6, 0.9


# Which of a batch's generators is each augmentation's. These numbers never change, nor are they given to another one.
_CORRECTION, _ROLL, _MIX_STYLE, _MASKS, _MIXUP, _IMPULSES = range(6)


@dataclass(frozen=True)
class Moment:
    """Where a training stands: the share of all clips that it has seen (0 to 1), and the number of the epoch, from 0."""

    progress: float
    epoch: int


def augment(
    logmel_BTF: Tensor,
    targets_BK: Tensor,
    recipe: Recipe,
    moment: Moment,
    generator: torch.Generator,
    correction_BF: Tensor | None = None,
    impulses: Callable[[Tensor, float, torch.Generator], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """The batch as the network is to see it: through devices, corrected, rolled, masked and mixed as the recipe says; targets (B, K) mixed alike.

    `correction_BF` is what spectrum correction would add to each clip (`trainers.inputs.Inputs.corrections`); `impulses` takes the batch through
    device responses, with a probability and a generator (`trainers.impulses.Impulses.through`). Draws are made on the CPU, so they
    are the same on every device. One number is drawn from `generator`, whatever the recipe says; each augmentation has a generator of
    its own made of it, so what one draws does not depend on whether another is on.
    """
    drawn = int(torch.randint(2**29, (), generator=generator))

    def own(augmentation: int) -> torch.Generator:
        return torch.Generator().manual_seed(8 * drawn + augmentation)  # torch's CPU generator reads 32 bits of a seed

    if recipe.impulses != "none" and impulses is not None:
        logmel_BTF = impulses(logmel_BTF, recipe.impulse_probability, own(_IMPULSES))
    if recipe.correction > 0 and correction_BF is not None:
        logmel_BTF = correct(logmel_BTF, correction_BF, recipe.correction, own(_CORRECTION))
    if recipe.roll:
        logmel_BTF = roll(logmel_BTF, own(_ROLL))
    if recipe.mix_style > 0:
        logmel_BTF = mix_style(logmel_BTF, recipe.mix_style, recipe.mix_style_alpha, own(_MIX_STYLE))
    if recipe.masks:
        logmel_BTF = spec_augment(logmel_BTF, recipe, own(_MASKS))
    if recipe.mixup_alpha > 0:
        generator = own(_MIXUP)
        if mixes(recipe.mixup_schedule, moment, generator):
            logmel_BTF, targets_BK = mixup(logmel_BTF, targets_BK, recipe.mixup_alpha, generator)
    return logmel_BTF, targets_BK


def spec_augment(logmel_BTF: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """The recipe's masks along both axes; also what test-time augmentation draws."""
    for axis in (1, 2):
        for _ in range(recipe.masks):
            logmel_BTF = mask(logmel_BTF, axis, recipe.mask_width, generator)
    return logmel_BTF


def correct(logmel_BTF: Tensor, correction_BF: Tensor, probability: float, generator: torch.Generator) -> Tensor:
    """Each clip, with this probability, as another recorder would have it: (B, F) is added to all of its frames.

    A product of spectra is a sum of their logarithms. Source: DSSDN, section 3.2 (corrected copies of recorder a as more data).
    """
    chosen_B = (torch.rand(len(logmel_BTF), generator=generator) < probability).to(logmel_BTF.device)
    return logmel_BTF + torch.where(chosen_B[:, None], correction_BF, 0.0)[:, None, :]


def mix_style(logmel_BTF: Tensor, probability: float, alpha: float, generator: torch.Generator) -> Tensor:
    """The batch with mean and deviation of every mel bin of every clip mixed with another clip's, with this probability; targets stay.

    The shares come from Beta(alpha, alpha), one a clip. Source: Freq-MixStyle (Kim et al., 2022; Schmid et al., DCASE 2023).
    """
    if float(torch.rand((), generator=generator)) >= probability:
        return logmel_BTF
    gammas_2B = torch._standard_gamma(torch.full((2, len(logmel_BTF)), alpha), generator=generator).clamp(min=1e-12)
    share_B11 = (gammas_2B[0] / gammas_2B.sum(0)).to(logmel_BTF.device)[:, None, None]
    partner_B = torch.randperm(len(logmel_BTF), generator=generator).to(logmel_BTF.device)
    mean_B1F = logmel_BTF.mean(1, keepdim=True)
    std_B1F = (logmel_BTF.var(1, keepdim=True, unbiased=False) + 1e-6).sqrt()
    mixed_mean = share_B11 * mean_B1F + (1 - share_B11) * mean_B1F[partner_B]
    mixed_std = share_B11 * std_B1F + (1 - share_B11) * std_B1F[partner_B]
    return (logmel_BTF - mean_B1F) / std_B1F * mixed_std + mixed_mean


def roll(logmel_BTF: Tensor, generator: torch.Generator) -> Tensor:
    """Each clip (T, F) shifted along time by its own number of frames, what leaves at one end entering at the other."""
    batch, frames, mels = logmel_BTF.shape
    shift_B1 = torch.randint(frames, (batch, 1), generator=generator).to(logmel_BTF.device)
    index_BT = (torch.arange(frames, device=logmel_BTF.device) + shift_B1) % frames
    return logmel_BTF.gather(1, index_BT[:, :, None].expand(-1, -1, mels))


def mask(logmel_BTF: Tensor, axis: int, width: float, generator: torch.Generator) -> Tensor:
    """One band of each clip set to 0, the mean after normalisation, along `axis` (1 time, 2 mel): of 1 bin up to `width` bins, or up to
    that share of the axis when it is below 1.

    Source: SpecAugment (Park et al., 2019), section 2, without bands of width 0: a width of up to 2 that is 0 or 1, as in the DSMN code,
    hardly masks.
    """
    size = logmel_BTF.shape[axis]
    widest = min(size, max(1, round(width if width >= 1 else width * size)))
    draws_B1 = torch.rand(2, len(logmel_BTF), 1, generator=generator).to(logmel_BTF.device)
    width_B1 = (draws_B1[0] * widest).floor() + 1
    start_B1 = (draws_B1[1] * (size - width_B1 + 1)).floor()
    position = torch.arange(size, device=logmel_BTF.device)
    hidden = (position >= start_B1) & (position < start_B1 + width_B1)
    return logmel_BTF.masked_fill(hidden.unsqueeze(2 if axis == 1 else 1), 0.0)


def mixes(schedule: str, moment: Moment, generator: torch.Generator) -> bool:
    """Whether this batch is mixed: always, or 'without hesitation': always, then every other epoch, then ever less often.

    Source: mixup without hesitation (Yu et al., 2021), algorithm 1; DSSDN, section 3.2, takes its schedule from there.
    """
    if schedule == "always" or moment.progress < ALWAYS_UNTIL:
        return True
    if moment.progress < EVERY_OTHER_UNTIL:
        return moment.epoch % 2 == 0
    return float(torch.rand((), generator=generator)) < (1 - moment.progress) / (1 - EVERY_OTHER_UNTIL)


def mixup(logmel_BTF: Tensor, targets_BK: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The batch blended with a permutation of itself by one share from Beta(alpha, alpha), targets alike.

    Source: mixup (Zhang et al., 2018), equation 1; one share a batch as in the DSMN code.
    """
    gammas = torch._standard_gamma(torch.full((2,), alpha), generator=generator)
    share = float(gammas[0] / gammas.sum()) if float(gammas.sum()) > 0 else 1.0
    partner = torch.randperm(len(logmel_BTF), generator=generator).to(logmel_BTF.device)
    logmel_BTF = share * logmel_BTF + (1 - share) * logmel_BTF[partner]
    return logmel_BTF, share * targets_BK + (1 - share) * targets_BK[partner]
