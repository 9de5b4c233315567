"""How much a timestep counts, by its signal-to-noise ratio ᾱ / (1 − ᾱ).

Each weighting (`config.weightings`) is written as what it gives the squared error of the clean latents
x₀, and here restated for what the model predicts. At a given noisy input the errors are in a fixed
proportion, |x₀ error|² = |ε error|² / snr = |v error|² / (snr + 1), so that every form of a weighting is
the same loss.
"""

from __future__ import annotations

from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from finetune.config import ObjectiveSection
from finetune.config.weightings import WEIGHTINGS


def timestep_weights(
    timesteps: Tensor, schedule: DDPMScheduler, prediction_type: str, section: ObjectiveSection
) -> Tensor | float:
    """What each sample's loss is multiplied by.

    Args:
        timesteps: `[B]`.
        schedule: Knows ᾱ of each timestep.
        prediction_type: `epsilon`, `v_prediction` or `sample`.
        section: Which weighting.

    Returns:
        `[B]`, or 1 if there is no weighting.
    """
    of_clean = WEIGHTINGS[section.weighting].of_clean
    if of_clean is None:
        return 1.0
    snr = compute_snr(schedule, timesteps)
    return restated(of_clean(snr, section), snr, prediction_type)


def restated(weight: Tensor, snr: Tensor, prediction_type: str) -> Tensor:
    """The weight of the squared error of what the model predicts, from that of x₀; all `[B]`."""
    if prediction_type == "epsilon":
        return weight / snr
    return weight / (snr + 1) if prediction_type == "v_prediction" else weight
