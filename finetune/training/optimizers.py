"""Makes the optimizer and the learning-rate schedule that the settings name."""

from __future__ import annotations

import io
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import torch
from diffusers.optimization import get_scheduler

from finetune.config import OptimizerSection
from finetune.config.choices import imported
from finetune.config.optimizer import POLYNOMIAL_POWER, RESTARTS_CYCLES
from finetune.errors import ConfigError

Groups = list[dict[str, Any]]


def make_optimizer(groups: Groups, section: OptimizerSection) -> torch.optim.Optimizer:
    """The optimizer that `section` names.

    Args:
        groups: Parameter groups, each with `params` and `lr`.
        section: The recipe's settings.

    Raises:
        ConfigError: If the library that the optimizer comes from cannot be used here.
    """
    row = section.row
    if row.only_cuda and not torch.cuda.is_available():
        raise ConfigError(
            f"The optimizer {section.name} needs a CUDA GPU, which this machine does not have.",
            where="optimizer.name",
            fix="Use adamw8bit, or another one that also runs on the CPU.",
        )
    kind = _optimizer_class(row.cls)
    with redirect_stdout(io.StringIO()):  # Prodigy prints that weight decay is decoupled
        made: Any = kind(groups, **row.arguments(section))
    if row.averages:
        made.train()  # the parameters are where gradients are taken, not the average
    optimizer: torch.optim.Optimizer = made
    return optimizer


def _optimizer_class(place: str) -> Callable[..., torch.optim.Optimizer]:
    """An optimizer's class.

    Raises:
        ConfigError: If its library cannot be imported.
    """
    library, name = place.partition(".")[0], place.partition(":")[2]
    try:
        factory: Callable[..., torch.optim.Optimizer] = imported(place)
    except Exception as error:  # a broken CUDA setup raises all sorts of things on import
        raise ConfigError(
            f"The optimizer {name} needs {library}, which cannot be used here: {error}",
            where="optimizer.name",
            fix=f"Run `pip install {library}`, or use --set optimizer.name=adamw.",
        ) from error
    return factory


def rate_factor(section: OptimizerSection, steps: int) -> Callable[[int], float]:
    """The learning rate's factor as a pure function of the step (so that resuming needs no state).

    Each comes from a new scheduler that starts at that step.

    The formulas are those of diffusers' schedules: a linear warmup over `warmup_steps`, then
    constant, or down to 0 at `steps`: linearly, along half a cosine or several in a row, or with a
    power of the remaining share.
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
