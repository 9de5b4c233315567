"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from diffusers.optimization import get_scheduler

from finetune.config import OptimizerSection
from finetune.errors import ConfigError


def make_optimizer(groups: list[dict[str, Any]], section: OptimizerSection) -> torch.optim.Optimizer:
    """The optimizer that `section` names.

    Args:
        groups: Parameter groups, each with `params` and `lr`.
        section: The recipe's settings.

    Raises:
        ConfigError: If the library that the optimizer comes from cannot be used here.
    """
    settings: dict[str, Any] = {
        "betas": section.betas,
        "eps": section.eps,
        "weight_decay": section.weight_decay,
    }
    if section.name == "adamw8bit":
        return _adamw_8bit()(groups, **settings)
    return torch.optim.AdamW(groups, fused=True, **settings)


def _adamw_8bit() -> Callable[..., torch.optim.Optimizer]:
    """AdamW with block-wise quantised state (Dettmers et al. 2022, arXiv:2110.02861)."""
    try:
        from bitsandbytes.optim import AdamW8bit
    except Exception as error:  # a broken CUDA set-up raises all sorts of things on import
        raise ConfigError(
            f"8-bit AdamW needs bitsandbytes, which cannot be used here: {error}",
            where="optimizer.name",
            mend="Install bitsandbytes, or use --set optimizer.name=adamw.",
        ) from error
    factory: Callable[..., torch.optim.Optimizer] = AdamW8bit
    return factory


def rate_factor(section: OptimizerSection, steps: int) -> Callable[[int], float]:
    """The learning rate's factor as a pure function of the step (so that resuming needs no state).

    The formulas are those of diffusers' schedules: a linear warm-up over `warmup_steps`, then
    constant, linear to 0, or half a cosine to 0 at `steps`.
    """
    name = "constant_with_warmup" if section.schedule == "constant" else section.schedule
    idle = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = get_scheduler(name, idle, num_warmup_steps=section.warmup_steps, num_training_steps=steps)
    factor: Callable[[int], float] = schedule.lr_lambdas[0]
    return factor
