"""Samplers by name, made from the model's own noise schedule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
)

from finetune.backbones.quiet import quiet
from finetune.errors import ConfigError
from finetune.sampling.settings import scheduler_fix


@dataclass(frozen=True)
class _Sampler:
    """One row of the table.

    Attributes:
        cls: The diffusers class.
        title: What A1111 and Forge call it, for the PNG's `parameters` text.
        fixed: Settings that are ours and not the model's.
        clean: Whether it can follow a model that predicts the clean latents ("sample").
    """

    cls: Any
    title: str
    fixed: Mapping[str, Any]
    clean: bool = True


# Latents do not live in [-1, 1], so the clipping that DDPM and DDIM were made with is never right here.
_UNCLIPPED = {"clip_sample": False, "thresholding": False}

_TABLE: dict[str, _Sampler] = {
    # Ho et al. 2020, arXiv:2006.11239; takes many steps.
    "ddpm": _Sampler(DDPMScheduler, "DDPM", _UNCLIPPED),
    # Song et al. 2021, arXiv:2010.02502, with η = 0.
    "ddim": _Sampler(DDIMScheduler, "DDIM", _UNCLIPPED),
    # Liu et al. 2022, arXiv:2202.09778; without its Runge-Kutta warm-up, as Stable Diffusion does (PLMS).
    "pndm": _Sampler(PNDMScheduler, "PLMS", {"skip_prk_steps": True}, clean=False),
    # Karras et al. 2022, arXiv:2206.00364, algorithm 2 without churn, first order.
    "euler": _Sampler(EulerDiscreteScheduler, "Euler", {}),
    # Euler with fresh noise after each step (k-diffusion's `sample_euler_ancestral`).
    "euler-a": _Sampler(EulerAncestralDiscreteScheduler, "Euler a", {}, clean=False),
    # Lu et al. 2022, arXiv:2211.01095: DPM-Solver++ (2M).
    "dpm++": _Sampler(
        DPMSolverMultistepScheduler,
        "DPM++ 2M",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "thresholding": False},
    ),
    # Karras et al. 2022, second order: two UNet evaluations a step.
    "heun": _Sampler(HeunDiscreteScheduler, "Heun", {}),
}


def _named(name: str) -> _Sampler:
    if name not in _TABLE:
        what = f"There is no sampler named `{name}`."
        raise ConfigError(what, where="scheduler", fix=scheduler_fix(name))
    return _TABLE[name]


def scheduler_title(name: str) -> str:
    """What A1111 calls the sampler `name`, e.g. "Euler a" for "euler-a".

    Raises:
        ConfigError: No sampler has that name.
    """
    return _named(name).title


def make_scheduler(name: str, own: Any) -> Any:
    """A fresh sampler with the noise schedule and prediction type of the model's own scheduler.

    Args:
        name: One of `finetune.config.SchedulerName`.
        own: The diffusers scheduler that came with the model; it is not changed.

    Returns:
        A diffusers scheduler.

    Raises:
        ConfigError: No sampler has that name, or it cannot follow the model's schedule (PNDM and
            Heun know no schedule with zero terminal signal, arXiv:2305.08891) or its prediction type.
    """
    sampler = _named(name)
    config = dict(own.config)
    if config.get("rescale_betas_zero_snr"):
        _require_zero_snr(name, sampler)
    if config.get("prediction_type") == "sample" and not sampler.clean:
        raise ConfigError(
            f"`{name}` cannot sample this model, which predicts the clean picture.",
            where="scheduler",
            fix=f"Choose one of: {', '.join(n for n, row in _TABLE.items() if row.clean)}.",
        )
    # The model's config names settings of its own class that another class has no use for; diffusers
    # logs each of them as a warning, which is noise here.
    with quiet():
        return sampler.cls.from_config(config, **sampler.fixed)


def _require_zero_snr(name: str, sampler: _Sampler) -> None:
    if "rescale_betas_zero_snr" not in sampler.cls().config:
        able = [n for n, row in _TABLE.items() if "rescale_betas_zero_snr" in row.cls().config]
        raise ConfigError(
            f"`{name}` cannot sample this model: its noise schedule ends in pure noise (zero terminal SNR).",
            where="scheduler",
            fix=f"Choose one of: {', '.join(able)}.",
        )
