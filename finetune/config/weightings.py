"""The weightings of timesteps, one row each.

A weighting is the weight of the squared error of the clean latents x₀ at the signal-to-noise ratio
snr = ᾱ / (1 − ᾱ); `diffusion.weighting` converts it for what the model predicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.config.choices import Choices, Row

if TYPE_CHECKING:
    from torch import Tensor

    from finetune.config.objective import ObjectiveSection

MIN_SNR_GAMMA = 5.0
P2_GAMMA, P2_K = 1.0, 1.0
"""Defaults of settings that are None if not given, so that one given without effect is noticed."""


@dataclass(frozen=True, kw_only=True)
class Weighting(Row):
    """One weighting.

    Attributes:
        of_clean: From snr `[B]` to the weights of the squared error of x₀ `[B]`; None for no weighting.
        kohya: Its entries in kohya's metadata, from the section's values.
    """

    of_clean: Callable[[Tensor, ObjectiveSection], Tensor] | None
    kohya: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda objective: {}


def _min_snr(snr: Tensor, section: ObjectiveSection) -> Tensor:
    """min(snr, γ) on x₀; so min(snr, γ)/snr on ε, min(snr, γ)/(snr + 1) on v.

    Keeps timesteps with little noise, which conflict with the others and converge first, from
    dominating the training (Hang et al. 2023, arXiv:2303.09556, which finds γ = 5).
    """
    return snr.clamp(max=section.min_snr_gamma or MIN_SNR_GAMMA)


def _debiased(snr: Tensor, section: ObjectiveSection) -> Tensor:
    """√snr on x₀; so 1/√snr on ε, the paper's form, and √snr/(snr + 1) on v.

    Raises the weight of high noise, whose errors of x₀ plain ε training neglects (Yu et al. 2023,
    arXiv:2310.08442).
    """
    return snr.sqrt()


def _p2(snr: Tensor, section: ObjectiveSection) -> Tensor:
    """snr/(k + snr)^γ on x₀; so 1/(k + snr)^γ on ε, the paper's form.

    Perception-prioritized: lowers the weight of low noise, where only imperceptible details are
    left to learn (Choi et al. 2022, arXiv:2204.00227; k = 1, γ of 0.5 or 1).
    """
    return snr / ((section.p2_k or P2_K) + snr) ** (section.p2_gamma or P2_GAMMA)


WEIGHTINGS = Choices(
    "objective.weighting",
    {
        "none": Weighting(of_clean=None),
        "min_snr": Weighting(
            of_clean=_min_snr,
            kohya=lambda objective: {"ss_min_snr_gamma": objective["min_snr_gamma"] or MIN_SNR_GAMMA},
            settings=("min_snr_gamma",),
        ),
        "debiased": Weighting(of_clean=_debiased, kohya=lambda objective: {"ss_debiased_estimation": True}),
        "p2": Weighting(of_clean=_p2, settings=("p2_gamma", "p2_k")),
    },
)
