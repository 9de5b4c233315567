"""What the loss is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from finetune.config.base import Amount, AmountAboveZero, Fault, Fraction, Need, Positive, Section
from finetune.config.weightings import MIN_SNR_GAMMA, P2_GAMMA, P2_K, WEIGHTINGS

HUBER_C, HUBER_SCHEDULE = 0.1, "snr"
CONSISTENCY_C = 0.001
PYRAMID_LEVELS = 6
"""Defaults of settings that are None if not given, so that one given without effect is noticed."""

_Threshold = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
_Number = Annotated[float, Field(allow_inf_nan=False)]


class ObjectiveSection(Section):
    """What the loss is."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need("objective.huber_c", "loss", ("huber", "smooth_l1")),
        Need("objective.huber_schedule", "loss", ("huber", "smooth_l1")),
        Need("objective.pyramid_levels", "pyramid_noise", example="0.3"),
    )

    target: Literal["auto", "epsilon", "v_prediction", "sample"] = Field(
        "auto",
        description="What the model predicts; `auto` reads it from the model, and a mismatch is refused.",
    )
    loss: Literal["l2", "l1", "huber", "smooth_l1"] = Field(
        "l2", description="Distance between prediction and target."
    )
    huber_c: _Threshold | None = Field(
        None,
        description=f"Threshold above which huber and smooth_l1 are linear; {HUBER_C} if unset.",
    )
    huber_schedule: Literal["constant", "exponential", "snr"] | None = Field(
        None,
        description="How that threshold falls from 1 to `huber_c` as the noise grows; "
        f"{HUBER_SCHEDULE} if unset.",
    )
    weighting: Annotated[str, WEIGHTINGS] = Field(
        "none", description="How much a timestep counts, by its signal-to-noise ratio."
    )
    min_snr_gamma: AmountAboveZero | None = Field(
        None, description=f"γ of min_snr: where the ratio is clamped; {MIN_SNR_GAMMA:g} if unset."
    )
    p2_gamma: AmountAboveZero | None = Field(
        None, description=f"γ of p2: how strongly low noise is down-weighted; {P2_GAMMA:g} if unset."
    )
    p2_k: AmountAboveZero | None = Field(None, description=f"k of p2; {P2_K:g} if unset.")
    offset_noise: Amount = Field(
        0.0,
        description="Strength of noise that shifts whole channels, for dark and bright results; 0 is off.",
    )
    pyramid_noise: Fraction = Field(
        0.0, description="Discount of each coarser level of multi-resolution noise; 0 is off."
    )
    pyramid_levels: Positive | None = Field(
        None, description=f"Levels of multi-resolution noise; {PYRAMID_LEVELS} if unset."
    )
    input_perturbation: Amount = Field(
        0.0, description="Strength of extra noise in the input that is not in the target; 0 is off."
    )
    timesteps: tuple[Fraction, Fraction] = Field(
        (0.0, 1.0),
        description="Part of the noise schedule that is trained, between 0 (least noise) and 1 (most).",
    )
    logit_normal: tuple[_Number, AmountAboveZero] | None = Field(
        None,
        description="Mean and standard deviation of logit-normal timesteps: `[0, 1]` favors the middle, "
        "a mean above 0 more noise; uniform if unset.",
    )
    beta_schedule: Literal["auto", "linear", "scaled_linear", "cosine"] = Field(
        "auto",
        description="Noise schedule of a model that is trained from scratch; `auto` is the model's own.",
    )
    zero_terminal_snr: bool = Field(
        False,
        description="Rescale the noise schedule to end in pure noise; not for epsilon models.",
    )

    @property
    def changes_schedule(self) -> bool:
        """Whether the result must be sampled with another noise schedule than the model came with."""
        return self.beta_schedule != "auto" or self.zero_terminal_snr

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        low, high = self.timesteps
        if low >= high:
            yield Fault(
                f"The range of timesteps from {low:g} to {high:g} is empty.",
                "objective.timesteps",
                "Give the lower end first, such as [0.2, 1].",
            )

    def unfit(self) -> Iterator[Fault]:
        """What is wrong with these settings where the result cannot store a noise schedule."""
        if self.changes_schedule:
            chosen = "beta_schedule" if self.beta_schedule != "auto" else "zero_terminal_snr"
            yield Fault(
                "The file that this recipe exports cannot store a noise schedule, so it would be sampled "
                "with the model's own.",
                f"objective.{chosen}",
                "Leave it out (a model's own schedule is always followed), or train the whole model.",
            )


class ConsistencySection(ObjectiveSection):
    """What the loss of a latent consistency distillation is (Luo et al. 2023, arXiv:2310.04378)."""

    loss: Literal["l2", "l1", "huber", "smooth_l1"] = Field(
        "smooth_l1", description="Distance between the student's pictures before and after a step."
    )
    huber_c: _Threshold | None = Field(
        None,
        description=f"Threshold above which huber and smooth_l1 are linear; {CONSISTENCY_C} if unset.",
    )
    huber_schedule: Literal["constant", "exponential", "snr"] | None = Field(
        None,
        description="How that threshold falls from 1 to `huber_c` as the noise grows; constant if unset.",
    )
    solver_steps: Annotated[int, Field(ge=2, le=1000)] = Field(
        50,
        description="Steps that the teacher takes from noise to picture, by DDIM; the student learns to skip "
        "them. `lcm` samples from the timesteps of 50.",
    )
    guidance: Amount = Field(
        5.0,
        description="Guidance scale that the teacher is asked with. It is learned along, so the result is "
        "sampled without guidance.",
    )
