"""How much a timestep counts, by its signal-to-noise ratio ᾱ / (1 − ᾱ).

Each weighting (`config.weightings`) is a weight of the squared error of the clean latents x₀, converted
here for what the model predicts. At a given noisy input the errors are in a fixed proportion,
|x₀ error|² = |ε error|² / snr = |v error|² / (snr + 1), so that every form of a weighting is the same loss.
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
        schedule: Gives ᾱ of each timestep.
        prediction_type: `epsilon`, `v_prediction` or `sample`.
        section: Which weighting.

    Returns:
        `[B]`, or 1 if there is no weighting.
    """
    of_clean = WEIGHTINGS[section.weighting].of_clean
    if of_clean is None:
        return 1.0
    snr: Tensor = compute_snr(schedule, timesteps)
    weights = of_clean(snr, section)
    if prediction_type == "epsilon":
        return weights / snr
    return weights / (snr + 1) if prediction_type == "v_prediction" else weights
