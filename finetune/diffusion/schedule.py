"""The noise schedule that a model is trained on, and that it must then be sampled with."""

from __future__ import annotations

from typing import Any

from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor

from finetune.config.objective import ObjectiveSection
from finetune.errors import ConfigError

_PUBLISHED: dict[str, dict[str, Any]] = {
    # Ho et al. 2020, arXiv:2006.11239.
    "linear": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    # Rombach et al. 2022, arXiv:2112.10752: linear in √β; that of every published Stable Diffusion.
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    # Nichol & Dhariwal 2021, arXiv:2102.09672.
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


def scheduler_for(scheduler: Any, section: ObjectiveSection) -> Any:
    """The model's scheduler with the noise schedule that the settings ask for.

    A model trained on this schedule must be sampled and exported with it, so it replaces the model's
    own.

    With zero terminal SNR (Lin et al. 2023, arXiv:2305.08891) β is rescaled so that the last timestep
    is pure noise, and sampling starts there ("trailing" spacing). Schedulers without such a
    schedule, such as PNDM, are replaced by DDIM.

    Args:
        scheduler: Any diffusers scheduler; it is not changed.
        section: The settings.

    Returns:
        A scheduler, or `scheduler` itself if nothing changes.
    """
    changes: dict[str, Any] = {}
    kind: Any = type(scheduler)
    if section.beta_schedule != "auto":
        changes |= _PUBLISHED[section.beta_schedule] | {"trained_betas": None}
    if section.zero_terminal_snr:
        changes |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
        if "rescale_betas_zero_snr" not in kind().config:
            # Latents are not limited to [-1, 1], to which DDIM would clip by default.
            kind, changes = DDIMScheduler, changes | {"clip_sample": False}
    return kind.from_config(scheduler.config, **changes) if changes else scheduler


def training_schedule(scheduler: Any, section: ObjectiveSection) -> DDPMScheduler:
    """The schedule to train on, after checking that the model can be trained on it as asked.

    Args:
        scheduler: The model's own, before or after `scheduler_for`.
        section: The settings.

    Raises:
        ConfigError: If what the model predicts is unknown or not what the settings ask for, or if it
            predicts noise and the schedule ends in pure noise.
    """
    schedule: DDPMScheduler = DDPMScheduler.from_config(scheduler_for(scheduler, section).config)
    predicts = str(schedule.config.prediction_type)
    if predicts not in ("epsilon", "v_prediction", "sample"):
        raise ConfigError(
            f"A model that predicts {predicts!r} cannot be trained.",
            where="the model's scheduler_config.json",
            fix="Set what it predicts with --set model.prediction_type=epsilon (or v_prediction, sample).",
        )
    if section.target not in ("auto", predicts):
        raise ConfigError(
            f"The model predicts {predicts}; training it toward {section.target} would unlearn that first.",
            where=f"objective.target = {section.target}",
            fix="Leave objective.target at auto. If the prediction type was detected wrongly, set it with "
            f"--set model.prediction_type={section.target}.",
        )
    if predicts == "epsilon" and float(schedule.alphas_cumprod[-1]) == 0:
        raise ConfigError(
            "Zero terminal SNR needs v-prediction: at the last timestep the input is pure noise, which an "
            "epsilon model would only have to copy.",
            where="objective.zero_terminal_snr" if section.zero_terminal_snr else "the model's scheduler",
            fix="Leave objective.zero_terminal_snr off, or use a v-prediction model. If this is one, use "
            "--set model.prediction_type=v_prediction.",
        )
    return schedule


def clean_latents(prediction: Tensor, noisy: Tensor, share: Tensor, prediction_type: str) -> Tensor:
    """The clean latents that a prediction implies.

    Args:
        prediction: Of the model, `[B, C, h, w]`.
        noisy: √ᾱ·latents + √(1−ᾱ)·noise, what the model was given.
        share: ᾱ, the share of the picture's power, `[B, 1, 1, 1]`.
        prediction_type: "epsilon", "v_prediction" or "sample".
    """
    alpha, sigma = share.sqrt(), (1 - share).sqrt()
    if prediction_type == "epsilon":
        return (noisy - sigma * prediction) / alpha
    return prediction if prediction_type == "sample" else alpha * noisy - sigma * prediction
