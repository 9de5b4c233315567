"""The ways to combine several LoRAs into one: each is one row."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.config.choices import Choices, Row


@dataclass(frozen=True, kw_only=True)
class Method(Row):
    """One way.

    Attributes:
        summary: What it does, in a few words.
        function: PEFT's function of the layers' whole changes and of their weights, "module:name"; None if
            the changes are simply added up.
        cut: Whether the result is cut to a rank.
    """

    summary: str
    function: str | None = None
    cut: bool = True


_PEFT = "peft.utils.merge_utils"
METHODS = Choices(
    "--method",
    {
        "concat": Method(summary="adds them up, exactly; the ranks add up too", cut=False),
        "svd": Method(summary="adds them up and cuts the sum to a rank"),
        "ties": Method(
            summary="keeps each LoRA's largest entries, and of these the ones with the sign of most",
            function=f"{_PEFT}:ties",
            settings=("density",),
        ),
        "magnitude_prune": Method(
            summary="adds up each LoRA's largest entries",
            function=f"{_PEFT}:magnitude_prune",
            settings=("density",),
        ),
        "dare_linear": Method(
            summary="drops entries at random, scales up the others and adds them up",
            function=f"{_PEFT}:dare_linear",
            settings=("density", "seed"),
        ),
        "dare_ties": Method(
            summary="drops entries at random, and keeps those with the sign of most",
            function=f"{_PEFT}:dare_ties",
            settings=("density", "seed"),
        ),
    },
)
