"""Which parameters are trained at which learning rate, and for how long."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from finetune.adapters.base import ParameterGroup
from finetune.config import OptimizerSection
from finetune.config.blocks import longest_prefix, unmatched_prefixes
from finetune.errors import ConfigError

Named = tuple[str, nn.Parameter]

SECOND_ENCODER = "text_encoder_2"
# The parts with a learning rate of their own (`optimizer.NAME_lr`), which may stop before the others.
TEXT = ("text_encoder", SECOND_ENCODER, "embedding")


@dataclass
class RateGroup:
    """Parameters with one learning rate.

    Attributes:
        name: What they are: "" for those at `optimizer.lr`, else one of `TEXT` or a name in
            `optimizer.block_lr`.
        rate: Their learning rate before the schedule.
        stop: The step after which they are frozen; None for never.
        parameters: Names and fp32 parameters.
    """

    name: str
    rate: float
    stop: int | None = None
    parameters: list[Named] = field(default_factory=list)

    @property
    def text(self) -> bool:
        """Whether it belongs to the text encoders or new words."""
        return self.name in TEXT

    def begin(self, step: int, factor: float) -> float:
        """The learning rate of the step after `step` steps; at the stop, ends the group's training.

        Args:
            step: Steps taken so far.
            factor: The schedule's factor.
        """
        if self.stop is None or step < self.stop:
            return self.rate * factor
        for _, parameter in self.parameters:
            # Without a gradient no optimizer moves it, neither by weight decay nor by momentum.
            parameter.requires_grad_(False)
        return 0.0


def rate_groups(trained: Sequence[ParameterGroup], section: OptimizerSection, steps: int) -> list[RateGroup]:
    """The parameters by learning rate, in the order in which their rates first occur.

    Parameters whose rate is 0 are in no group.

    Args:
        trained: All that could be trained.
        section: The learning rates, the factors by block and when text encoders stop.
        steps: Of the whole run.

    Raises:
        ConfigError: If a rate is given for a part that is not trained, a name in `block_lr` matches nothing,
            or nothing is left to train.
    """
    _check_parts(trained, section)
    _check_blocks(trained, section)
    groups: dict[str, RateGroup] = {}
    for part, name, parameter in _by_part(trained):
        if part in TEXT:
            group = RateGroup(part, _text_rate(part, section), section.stop_step(steps))
        else:
            block = longest_prefix(_inside(part, name), section.block_lr)
            factor = 1.0 if block is None else section.block_lr[block]
            group = RateGroup(block or "", section.lr * factor)
        if group.rate:
            groups.setdefault(group.name, group).parameters.append((name, parameter))
    _check_left(groups.values(), steps)
    return list(groups.values())


def set_rates(
    optimizer: torch.optim.Optimizer, groups: Sequence[RateGroup], step: int, factor: float
) -> None:
    """Gives the optimizer the learning rates of the step after `step` steps.

    Args:
        optimizer: Made from `groups`.
        groups: As `rate_groups` gave them.
        step: Steps taken so far.
        factor: The schedule's factor.
    """
    for own, group in zip(optimizer.param_groups, groups, strict=True):
        own["lr"] = group.begin(step, factor)


def logged_rates(optimizer: torch.optim.Optimizer, groups: Sequence[RateGroup]) -> dict[str, float]:
    """The learning rates to log, such as `lr`, `lr_text_encoder` and `lr_down_blocks.0`.

    Prodigy's are multiplied by its estimate.
    """
    pairs: Iterator[tuple[dict[str, Any], RateGroup]] = zip(optimizer.param_groups, groups, strict=True)
    return {f"lr_{group.name}" if group.name else "lr": own["lr"] * own.get("d", 1.0) for own, group in pairs}


def _by_part(trained: Iterable[ParameterGroup]) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Every parameter with the part that it belongs to: its group, or SDXL's second text encoder."""
    for group in trained:
        for name, parameter in group.parameters:
            second = group.name == TEXT[0] and name.startswith(f"{SECOND_ENCODER}.")
            yield SECOND_ENCODER if second else group.name, name, parameter


def _inside(part: str, name: str) -> str:
    """The name of a parameter within the UNet."""
    return name.removeprefix(f"{part}.")


def _text_rate(part: str, section: OptimizerSection) -> float:
    rates = [section.embedding_lr] if part == "embedding" else [section.text_encoder_lr]
    if part == SECOND_ENCODER:
        rates.insert(0, section.text_encoder_2_lr)
    return next((rate for rate in rates if rate is not None), section.lr)


def _check_parts(trained: Sequence[ParameterGroup], section: OptimizerSection) -> None:
    there = {part for part, _, _ in _by_part(trained)}
    for part in TEXT:
        if getattr(section, f"{part}_lr") is not None and part not in there:
            raise ConfigError(
                f"A learning rate is given for {part}, which is not trained.",
                where=f"optimizer.{part}_lr",
                fix="Remove it, or train that part (section adapter).",
            )
    if section.text_encoder_stop is not None and not there & set(TEXT):
        raise ConfigError(
            "A stop is given for the text encoders, but they are not trained.",
            where="optimizer.text_encoder_stop",
            fix="Remove it, or set adapter.text_encoder=true.",
        )


def _check_blocks(trained: Sequence[ParameterGroup], section: OptimizerSection) -> None:
    names = [_inside(part, name) for part, name, _ in _by_part(trained) if part not in TEXT]
    for prefix, near in unmatched_prefixes(section.block_lr, names):
        raise ConfigError(
            f"No trained part of the UNet has a name that begins with {prefix!r}.",
            where="optimizer.block_lr",
            fix=f"Did you mean {near}?"
            if near
            else "Names begin like down_blocks.0, mid_block, up_blocks.1.",
        )


def _check_left(groups: Iterable[RateGroup], steps: int) -> None:
    stops = [group.stop for group in groups]
    if not stops:
        raise ConfigError(
            "Nothing is left to train: every factor is 0.",
            where="optimizer.block_lr",
            fix="Leave some blocks out, or give them a factor above 0.",
        )
    if all(stop is not None and stop < steps for stop in stops):
        raise ConfigError(
            "The run would continue with nothing to train: only text encoders are trained, and they stop.",
            where="optimizer.text_encoder_stop",
            fix="Remove it, or lower training.steps.",
        )
