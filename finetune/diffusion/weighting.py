"""How much a timestep counts, by its signal-to-noise ratio ᾱ / (1 − ᾱ).

Each weighting is written as what it gives the squared error of the clean latents x₀, and then restated
for what the model predicts. At a given noisy input the errors are in a fixed proportion, |x₀ error|² =
|ε error|² / snr = |v error|² / (snr + 1), so that every form of a weighting is the same loss.
"""

from __future__ import annotations

from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr
from torch import Tensor

from finetune.config.objective import MIN_SNR_GAMMA, P2_GAMMA, P2_K, ObjectiveSection


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
    if section.weighting == "none":
        return 1.0
    snr = compute_snr(schedule, timesteps)
    if section.weighting == "min_snr":
        weight = min_snr(snr, section.min_snr_gamma or MIN_SNR_GAMMA)
    elif section.weighting == "debiased":
        weight = debiased(snr)
    else:
        weight = p2(snr, section.p2_k or P2_K, section.p2_gamma or P2_GAMMA)
    return restated(weight, snr, prediction_type)


def restated(weight: Tensor, snr: Tensor, prediction_type: str) -> Tensor:
    """The weight of the squared error of what the model predicts, from that of x₀; all `[B]`."""
    if prediction_type == "epsilon":
        return weight / snr
    return weight / (snr + 1) if prediction_type == "v_prediction" else weight


def min_snr(snr: Tensor, gamma: float) -> Tensor:
    """min(snr, γ) on x₀; so min(snr, γ)/snr on ε, min(snr, γ)/(snr + 1) on v.

    Keeps timesteps with little noise, which conflict with the others and converge first, from ruling
    the training (Hang et al. 2023, arXiv:2303.09556, which finds γ = 5).
    """
    return snr.clamp(max=gamma)


def debiased(snr: Tensor) -> Tensor:
    """√snr on x₀; so 1/√snr on ε, the paper's form, and √snr/(snr + 1) on v.

    Raises the timesteps with much noise, whose errors of x₀ plain ε training neglects (Yu et al. 2023,
    arXiv:2310.08442).
    """
    return snr.sqrt()


def p2(snr: Tensor, k: float, gamma: float) -> Tensor:
    """snr/(k + snr)^γ on x₀; so 1/(k + snr)^γ on ε, the paper's form.

    Perception-prioritised: lowers the timesteps with little noise, where only imperceptible details
    are left to learn (Choi et al. 2022, arXiv:2204.00227; k = 1, γ of 0.5 or 1).
    """
    return snr / (k + snr) ** gamma
