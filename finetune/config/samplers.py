"""The samplers, one row each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from finetune.config.choices import Choices, Row


@dataclass(frozen=True, kw_only=True)
class Sampler(Row):
    """One sampler.

    Attributes:
        cls: Its class, "module:name": one of diffusers' schedulers, or with the same interface.
        title: What A1111 and Forge call it, for the PNG's `parameters` text.
        fixed: Settings that override the model's.
        clean: Whether it can follow a model that predicts the clean latents ("sample").
        sigmas: How noise levels are spaced if nothing else is asked for, as `SamplingSection.sigmas`.
    """

    cls: str
    title: str
    fixed: Mapping[str, Any] = field(default_factory=dict)
    clean: bool = True
    sigmas: str = "model"


# Latents are not limited to [-1, 1], so the clipping that DDPM and DDIM were made with is wrong here.
_UNCLIPPED = {"clip_sample": False, "thresholding": False}

SAMPLERS = Choices(
    "scheduler",
    {
        # Ho et al. 2020, arXiv:2006.11239; takes many steps.
        "ddpm": Sampler(cls="diffusers:DDPMScheduler", title="DDPM", fixed=_UNCLIPPED),
        # Song et al. 2021, arXiv:2010.02502, with η = 0.
        "ddim": Sampler(cls="diffusers:DDIMScheduler", title="DDIM", fixed=_UNCLIPPED),
        # Liu et al. 2022, arXiv:2202.09778; without its Runge-Kutta warmup, as Stable Diffusion does (PLMS).
        "pndm": Sampler(
            cls="diffusers:PNDMScheduler", title="PLMS", fixed={"skip_prk_steps": True}, clean=False
        ),
        # Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn, first order.
        "euler": Sampler(cls="diffusers:EulerDiscreteScheduler", title="Euler"),
        # Euler with fresh noise after each step (k-diffusion's `sample_euler_ancestral`).
        "euler-a": Sampler(cls="diffusers:EulerAncestralDiscreteScheduler", title="Euler a", clean=False),
        # Lu et al. 2022, arXiv:2211.01095: DPM-Solver++ (2M).
        "dpm++": Sampler(
            cls="diffusers:DPMSolverMultistepScheduler",
            title="DPM++ 2M",
            fixed={"algorithm_type": "dpmsolver++", "solver_order": 2, "thresholding": False},
        ),
        # The same as a stochastic differential equation: fresh noise after each step.
        "dpm++-2m-sde": Sampler(
            cls="diffusers:DPMSolverMultistepScheduler",
            title="DPM++ 2M SDE",
            fixed={"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "thresholding": False},
        ),
        # And with three steps of memory, best with many steps and little guidance. A1111 and Forge choose
        # exponential levels for it.
        "dpm++-3m-sde": Sampler(
            cls="finetune.sampling.third_order:ThirdOrderSDE",
            title="DPM++ 3M SDE",
            fixed={"algorithm_type": "sde-dpmsolver++", "solver_order": 3, "thresholding": False},
            sigmas="exponential",
        ),
        # The solver with steps in pairs instead of memory, as diffusers' documentation names it.
        "dpm++-sde": Sampler(
            cls="diffusers:DPMSolverSinglestepScheduler",
            title="DPM++ SDE",
            fixed={"algorithm_type": "sde-dpmsolver++", "solver_order": 2, "thresholding": False},
        ),
        # Zhao et al. 2023, arXiv:2302.04867: a predictor and a corrector.
        "unipc": Sampler(
            cls="diffusers:UniPCMultistepScheduler", title="UniPC", fixed={"thresholding": False}
        ),
        # Karras et al. 2022, second order: two UNet evaluations a step.
        "heun": Sampler(cls="diffusers:HeunDiscreteScheduler", title="Heun"),
        # Luo et al. 2023, arXiv:2310.04378, for models distilled so: 4 to 8 steps, guidance of 1 to 2.
        "lcm": Sampler(cls="diffusers:LCMScheduler", title="LCM", fixed=_UNCLIPPED),
        # Zheng et al. 2024, arXiv:2402.19159, likewise, with γ = 0.3.
        "tcd": Sampler(cls="diffusers:TCDScheduler", title="TCD", fixed=_UNCLIPPED),
    },
)
SchedulerName = Annotated[str, SAMPLERS]
