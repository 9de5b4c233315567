"""Samplers by name, made from the model's own noise schedule."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from finetune.backbones.quiet import quiet
from finetune.config.choices import imported
from finetune.config.samplers import SAMPLERS, Sampler
from finetune.errors import ConfigError
from finetune.sampling.settings import SamplingSection, scheduler_fix


def make_scheduler(name: str, own: Any, sigmas: str = "model", spacing: str = "model") -> Any:
    """A fresh sampler with the noise schedule and prediction type of the model's own scheduler.

    Args:
        name: One of `finetune.config.samplers.SAMPLERS`.
        own: The diffusers scheduler that came with the model; it is not changed.
        sigmas: How noise levels are spaced, as `SamplingSection.sigmas`.
        spacing: How timesteps are spaced, as `SamplingSection.spacing`.

    Returns:
        A diffusers scheduler.

    Raises:
        ConfigError: No sampler has that name, or it cannot follow the model's schedule (PNDM and
            Heun do not support zero terminal SNR, arXiv:2305.08891), its prediction type or the spacing.
    """
    if name not in SAMPLERS:
        what = f"There is no sampler named `{name}`."
        raise ConfigError(what, where="scheduler", fix=scheduler_fix(name))
    sampler = SAMPLERS[name]
    config = dict(own.config)
    if config.get("rescale_betas_zero_snr") and not _takes_zero_snr(sampler):
        raise ConfigError(
            f"`{name}` cannot sample this model: its noise schedule ends in pure noise (zero terminal SNR).",
            where="scheduler",
            fix=f"Choose one of: {', '.join(n for n, row in SAMPLERS.items() if _takes_zero_snr(row))}.",
        )
    if config.get("prediction_type") == "sample" and not sampler.clean:
        raise ConfigError(
            f"`{name}` cannot sample this model, which predicts the clean picture.",
            where="scheduler",
            fix=f"Choose one of: {', '.join(n for n, row in SAMPLERS.items() if row.clean)}.",
        )
    changes = _spaced(name, sampler, sampler.sigmas if sigmas == "model" else sigmas, spacing)
    # The model's config names settings of its own class that another class does not use; diffusers logs
    # a warning for each, which is noise here.
    with quiet():
        return imported(sampler.cls).from_config(config, **sampler.fixed, **changes)


def scheduler_of(settings: SamplingSection, own: Any) -> Any:
    """The sampler that settings name, as `make_scheduler`."""
    return make_scheduler(settings.scheduler, own, settings.sigmas, settings.spacing)


def set_timesteps(scheduler: Any, steps: int, strength: float | None, device: torch.device) -> Tensor:
    """Sets a sampler's timesteps, and gives those to use.

    Args:
        scheduler: From `make_scheduler`.
        steps: From pure noise to the picture.
        strength: The share of the steps to use, the last ones; None for noise alone.
        device: Where they go.

    Raises:
        ConfigError: The sampler cannot take so many steps.
    """
    try:
        with quiet():  # DPM++ SDE logs that it takes an odd number of steps
            scheduler.set_timesteps(steps, device=device)
    except ValueError as error:  # LCM and TCD have as many steps as they were distilled for, at most
        raise _too_many(steps, "4 to 8") from error
    timesteps: Tensor = scheduler.timesteps
    if steps > 1 and _too_close(scheduler):
        raise _too_many(steps, str(steps // 2))
    first = 0 if strength is None else (steps - int(steps * strength)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):  # else the first is searched, and not found where two are equal
        scheduler.set_begin_index(first)
    return timesteps[first:]


def _too_many(steps: int, better: str) -> ConfigError:
    return ConfigError(
        f"This sampler cannot take {steps} steps.", where="steps", fix=f"Use fewer, such as {better}."
    )


def _too_close(scheduler: Any) -> bool:
    """Whether steps are so many that two are at one noise level, or the first is before the model's first."""
    levels = getattr(scheduler, "sigmas", None)
    repeats = levels is not None and scheduler.order == 1 and bool((levels.diff() == 0).any())
    return repeats or bool(scheduler.timesteps.max() >= scheduler.config.num_train_timesteps)


def _takes_zero_snr(sampler: Sampler) -> bool:
    return _takes("rescale_betas_zero_snr", sampler)


def _takes(setting: str, sampler: Sampler) -> bool:
    return setting in imported(sampler.cls)().config


def _spaced(name: str, sampler: Sampler, sigmas: str, spacing: str) -> dict[str, Any]:
    """The scheduler's settings for a spacing of its own; "model" leaves them as they are."""
    changes: dict[str, Any] = {} if spacing == "model" else {"timestep_spacing": spacing}
    if sigmas != "model":
        # The model may have another of them on, and only one can be.
        kinds = ("karras", "exponential", "beta")
        changes |= {
            f"use_{kind}_sigmas": kind == sigmas for kind in kinds if _takes(f"use_{kind}_sigmas", sampler)
        }
    for setting, value in (("sigmas", sigmas), ("spacing", spacing)):
        key = f"use_{value}_sigmas" if setting == "sigmas" else "timestep_spacing"
        if value != "model" and not _takes(key, sampler):
            able = ", ".join(other for other, row in SAMPLERS.items() if _takes(key, row))
            what = f"`{name}` cannot space its steps by `{setting}` {value}."
            raise ConfigError(what, where=setting, fix=f"Choose one of: {able}.")
    return changes
