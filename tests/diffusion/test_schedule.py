"""Noise schedules: the papers' formulas, and that training, sampling and export agree on one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler
from diffusers.schedulers.scheduling_ddim import rescale_zero_terminal_snr

from finetune.config import ObjectiveSection
from finetune.diffusion.schedule import scheduler_for, training_schedule
from finetune.errors import ConfigError
from finetune.sampling.schedulers import make_scheduler

STABLE: dict[str, Any] = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
VELOCITY = STABLE | {"prediction_type": "v_prediction"}
ZERO = ObjectiveSection(zero_terminal_snr=True)


def test_the_models_own_schedule_is_left_alone() -> None:
    own = PNDMScheduler(**STABLE)
    assert scheduler_for(own, ObjectiveSection()) is own
    assert torch.equal(training_schedule(own, ObjectiveSection()).betas, own.betas)


@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_zero_terminal_snr_is_the_papers_everywhere(kind: Any, tmp_path: Path) -> None:
    own = kind(**VELOCITY, steps_offset=1) if kind is not DDPMScheduler else kind(**VELOCITY)
    before = dict(own.config)
    trained = training_schedule(own, ZERO)
    torch.testing.assert_close(trained.betas, rescale_zero_terminal_snr(DDPMScheduler(**STABLE).betas))
    # √ᾱ of the first timestep stays, that of the last is 0, and all between are moved in proportion.
    roots, old = trained.alphas_cumprod.sqrt(), DDPMScheduler(**STABLE).alphas_cumprod.sqrt()
    torch.testing.assert_close(roots, (old - old[-1]) * old[0] / (old[0] - old[-1]), atol=1e-5, rtol=1e-4)
    assert roots[-1] == 0

    changed = scheduler_for(own, ZERO)
    assert type(changed) is (kind if kind is not PNDMScheduler else DDIMScheduler)
    changed.save_pretrained(tmp_path)
    exported = (kind if kind is not PNDMScheduler else DDIMScheduler).from_pretrained(tmp_path)
    torch.testing.assert_close(training_schedule(exported, ObjectiveSection()).betas, trained.betas)
    sampler = make_scheduler("ddim", exported)
    sampler.set_timesteps(10)
    assert int(sampler.timesteps[0]) == 999
    torch.testing.assert_close(sampler.alphas_cumprod, trained.alphas_cumprod)
    assert kind is not PNDMScheduler or not exported.config.clip_sample
    assert dict(own.config) == before


def test_a_perfect_velocity_model_is_sampled_back_from_pure_noise() -> None:
    # With one picture in the world the velocity is known in closed form; the sampler has to find it.
    world = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler = make_scheduler("ddim", scheduler_for(PNDMScheduler(**VELOCITY, set_alpha_to_one=False), ZERO))
    scheduler.set_timesteps(20)
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    for t in scheduler.timesteps:
        share = scheduler.alphas_cumprod[t]
        noise = (x - share.sqrt() * world) / (1 - share).sqrt()
        x = scheduler.step(share.sqrt() * noise - (1 - share).sqrt() * world, t, x).prev_sample
    assert float((x - world).abs().max()) < 0.2  # what noise the last timestep leaves
    assert float((x - world).std()) == pytest.approx(
        float((1 - scheduler.final_alpha_cumprod).sqrt()), rel=0.1
    )


def test_published_schedules() -> None:
    def betas(name: str) -> torch.Tensor:
        # Whatever the model had before, also a table of its own.
        own = DDIMScheduler(trained_betas=[0.5] * 1000)
        section = ObjectiveSection.model_validate({"beta_schedule": name})
        assert torch.equal(scheduler_for(own, section).betas, training_schedule(own, section).betas)
        return training_schedule(own, section).betas

    torch.testing.assert_close(betas("linear"), torch.linspace(1e-4, 0.02, 1000))
    torch.testing.assert_close(
        betas("scaled_linear"), torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square(), rtol=1e-5, atol=0
    )

    def cosine(t: float) -> float:  # ᾱ, arXiv:2102.09672, eq. 17
        return math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2

    expected = [min(0.999, 1 - cosine((t + 1) / 1000) / cosine(t / 1000)) for t in range(1000)]
    torch.testing.assert_close(betas("cosine"), torch.tensor(expected))


def test_a_published_schedule_can_end_in_noise_alone() -> None:
    section = ObjectiveSection(beta_schedule="linear", zero_terminal_snr=True)
    expected = rescale_zero_terminal_snr(torch.linspace(1e-4, 0.02, 1000))
    torch.testing.assert_close(training_schedule(PNDMScheduler(**VELOCITY), section).betas, expected)


def refusal(scheduler: Any, **settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        training_schedule(scheduler, ObjectiveSection(**settings))
    return str(caught.value)


def test_noise_cannot_be_learned_where_there_is_nothing_else() -> None:
    told = refusal(DDIMScheduler(**STABLE), zero_terminal_snr=True)
    assert "Zero terminal SNR needs v-prediction" in told
    assert "objective.zero_terminal_snr" in told
    assert "model.prediction_type=v_prediction" in told
    # A model that says so of itself is no better.
    assert "Zero terminal SNR needs v-prediction" in refusal(
        DDIMScheduler(**STABLE, rescale_betas_zero_snr=True)
    )


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("target", ["auto", "epsilon", "v_prediction", "sample"])
def test_only_what_the_model_predicts_can_be_its_target(predicts: str, target: Any) -> None:
    scheduler = DDIMScheduler(**STABLE, prediction_type=predicts)
    if target in ("auto", predicts):
        assert (
            training_schedule(scheduler, ObjectiveSection(target=target)).config.prediction_type == predicts
        )
    else:
        told = refusal(scheduler, target=target)
        assert f"objective.target = {target}" in told
        assert f"--set model.prediction_type={target}" in told


def test_an_unknown_prediction_type_is_refused() -> None:
    assert "model.prediction_type" in refusal(DDIMScheduler(**STABLE, prediction_type="flow_prediction"))
