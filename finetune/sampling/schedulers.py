"""Samplers by name, made from the model's own noise schedule."""

from __future__ import annotations

from typing import Any

from finetune.backbones.quiet import quiet
from finetune.config.choices import imported
from finetune.config.samplers import SAMPLERS, Sampler
from finetune.errors import ConfigError
from finetune.sampling.settings import scheduler_fix


def make_scheduler(name: str, own: Any) -> Any:
    """A fresh sampler with the noise schedule and prediction type of the model's own scheduler.

    Args:
        name: One of `finetune.config.samplers.SAMPLERS`.
        own: The diffusers scheduler that came with the model; it is not changed.

    Returns:
        A diffusers scheduler.

    Raises:
        ConfigError: No sampler has that name, or it cannot follow the model's schedule (PNDM and
            Heun do not support zero terminal SNR, arXiv:2305.08891) or its prediction type.
    """
    if name not in SAMPLERS:
        what = f"There is no sampler named `{name}`."
        raise ConfigError(what, where="scheduler", fix=scheduler_fix(name))
    sampler = SAMPLERS[name]
    config = dict(own.config)
    if config.get("rescale_betas_zero_snr") and not _takes_zero_snr(sampler):
        raise ConfigError(
            f"`{name}` cannot sample this model: its noise schedule ends in pure noise (zero terminal SNR).",
            where="scheduler",
            fix=f"Choose one of: {', '.join(n for n, row in SAMPLERS.items() if _takes_zero_snr(row))}.",
        )
    if config.get("prediction_type") == "sample" and not sampler.clean:
        raise ConfigError(
            f"`{name}` cannot sample this model, which predicts the clean picture.",
            where="scheduler",
            fix=f"Choose one of: {', '.join(n for n, row in SAMPLERS.items() if row.clean)}.",
        )
    # The model's config names settings of its own class that another class does not use; diffusers logs
    # a warning for each, which is noise here.
    with quiet():
        return imported(sampler.cls).from_config(config, **sampler.fixed)


def _takes_zero_snr(sampler: Sampler) -> bool:
    return "rescale_betas_zero_snr" in imported(sampler.cls)().config
