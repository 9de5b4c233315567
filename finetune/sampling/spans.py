"""Parts of the sampling steps in which something acts, as diffusers' ControlNet pipelines have them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from finetune.errors import ConfigError

Span = tuple[float, float]
"""Begin and end as shares of all steps, such as (0, 0.6)."""


def acts(within: Span, step: Span) -> bool:
    """Whether a step lies wholly in a part: one that is partly outside does not count."""
    return within[0] <= step[0] <= step[1] <= within[1]


def shares(count: int) -> Iterator[Span]:
    """The share of the way that each of `count` steps takes."""
    return ((index / count, (index + 1) / count) for index in range(count))


def check_acts(what: str, where: str, within: Span, counts: Sequence[int]) -> None:
    """Makes sure that a part of the steps holds one.

    Args:
        what: What acts in it, such as "A LoRA".
        where: The setting.
        within: The part.
        counts: How many steps each pass has.

    Raises:
        ConfigError: It does not, so that nothing would act.
    """
    if any(acts(within, step) for count in counts for step in shares(count)):
        return
    steps = " and ".join(map(str, counts))
    raise ConfigError(
        f"{what} that acts from {within[0]:g} to {within[1]:g} of the steps acts in none of {steps}: no step "
        "lies wholly inside.",
        where=where,
        fix="Give a wider part, or more steps.",
    )
