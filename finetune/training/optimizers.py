"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import torch
from diffusers.optimization import get_scheduler
from transformers.optimization import Adafactor

from finetune.config import OptimizerSection
from finetune.config.optimizer import (
    BETAS,
    D0,
    D_COEF,
    EPS,
    LION_BETAS,
    POLYNOMIAL_POWER,
    RESTARTS_CYCLES,
)
from finetune.errors import ConfigError

Groups = list[dict[str, Any]]


def make_optimizer(groups: Groups, section: OptimizerSection) -> torch.optim.Optimizer:
    """The optimizer that `section` names.

    Args:
        groups: Parameter groups, each with `params` and `lr`.
        section: The recipe's settings.

    Raises:
        ConfigError: If the library that the optimizer comes from
            cannot be used here.
    """
    return _MAKERS[section.name](groups, section)


def _adamw(groups: Groups, section: OptimizerSection) -> torch.optim.Optimizer:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""
    return torch.optim.AdamW(groups, fused=True, **_adam(section))


def _adamw8bit(groups: Groups, section: OptimizerSection) -> torch.optim.Optimizer:
    """AdamW with block-wise quantised state (Dettmers et al. 2022, arXiv:2110.02861)."""
    return _found("bitsandbytes.optim", "AdamW8bit")(groups, **_adam(section))


def _paged_adamw8bit(groups: Groups, section: OptimizerSection) -> torch.optim.Optimizer:
    """The same with its state in memory that moves between GPU and CPU (arXiv:2305.14314, section 3)."""
    if not torch.cuda.is_available():
        raise ConfigError(
            "Paged optimizers move their state between a GPU and the CPU, and there is no CUDA GPU here.",
            where="optimizer.name",
            fix="Use adamw8bit, which is the same without paging.",
        )
    return _found("bitsandbytes.optim", "PagedAdamW8bit")(groups, **_adam(section))


def _adafactor(groups: Groups, section: OptimizerSection) -> torch.optim.Optimizer:
    """Adam without momentum and with factored second moments (Shazeer & Stern 2018, arXiv:1804.04235).

    The one of transformers, since only there the learning rate can be the one that is set: PyTorch's
    always takes steps relative to each parameter's size, and none above 1/√step.
    """
    made: torch.optim.Optimizer = Adafactor(
        groups, scale_parameter=False, relative_step=False, weight_decay=section.weight_decay
    )
    return made


def _lion(groups: Groups, section: OptimizerSection) -> torch.optim.Optimizer:
    """The sign of a momentum (Chen et al. 2023, arXiv:2302.06675)."""
    return _found("bitsandbytes.optim", "Lion")(
        groups, betas=section.betas or LION_BETAS, weight_decay=section.weight_decay
    )


def _prodigy(groups: Groups, section: OptimizerSection) -> torch.optim.Optimizer:
    """Adam that estimates its learning rate (Mishchenko & Defazio 2023, arXiv:2306.06101).

    With the options that its authors recommend for diffusion models.
    """
    prodigy = _found("prodigyopt", "Prodigy")
    with redirect_stdout(io.StringIO()):  # it prints that weight decay is decoupled
        return prodigy(
            groups,
            d0=section.d0 or D0,
            d_coef=section.d_coef or D_COEF,
            use_bias_correction=True,
            safeguard_warmup=True,
            **_adam(section),
        )


def _schedule_free_adamw(groups: Groups, section: OptimizerSection) -> torch.optim.Optimizer:
    """AdamW with an average in place of a schedule (Defazio et al. 2024, arXiv:2405.15682)."""
    optimizer: Any = _found("schedulefree", "AdamWScheduleFree")(groups, **_adam(section))
    optimizer.train()  # the parameters are where gradients are taken, not the average
    made: torch.optim.Optimizer = optimizer
    return made


_MAKERS: dict[str, Callable[[Groups, OptimizerSection], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw8bit": _adamw8bit,
    "paged_adamw8bit": _paged_adamw8bit,
    "adafactor": _adafactor,
    "lion": _lion,
    "prodigy": _prodigy,
    "schedule_free_adamw": _schedule_free_adamw,
}


def _adam(section: OptimizerSection) -> dict[str, Any]:
    return {
        "betas": section.betas or BETAS,
        "eps": section.eps or EPS,
        "weight_decay": section.weight_decay,
    }


def _found(module: str, name: str) -> Callable[..., torch.optim.Optimizer]:
    """The class `name` of a module.

    Raises:
        ConfigError: If the module cannot be imported.
    """
    library = module.partition(".")[0]
    try:
        factory: Callable[..., torch.optim.Optimizer] = getattr(import_module(module), name)
    except Exception as error:  # a broken CUDA set-up raises all sorts of things on import
        raise ConfigError(
            f"The optimizer {name} needs {library}, which cannot be used here: {error}",
            where="optimizer.name",
            fix=f"Run `pip install {library}`, or use --set optimizer.name=adamw.",
        ) from error
    return factory


def rate_factor(section: OptimizerSection, steps: int) -> Callable[[int], float]:
    """The learning rate's factor as a pure function of the step (so that resuming needs no state).

    Each is asked of a new schedule that begins there.

    The formulas are those of diffusers' schedules: a linear warm-up over `warmup_steps`, then
    constant, or down to 0 at `steps`: linearly, along half a cosine or several one after another, or
    with a power of what is left.
    """
    name = "constant_with_warmup" if section.schedule == "constant" else section.schedule

    def factor(step: int) -> float:
        group = {"params": [torch.zeros(1, requires_grad=True)], "initial_lr": 1.0}
        schedule = get_scheduler(
            name,
            torch.optim.SGD([group], lr=1.0),
            num_warmup_steps=section.warmup_steps,
            num_training_steps=steps,
            num_cycles=section.schedule_cycles or RESTARTS_CYCLES,
            power=section.schedule_power or POLYNOMIAL_POWER,
            last_epoch=step - 1,
        )
        return float(schedule.get_last_lr()[0])

    return factor
