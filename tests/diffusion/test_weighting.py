"""Weightings against the formulas of their papers, for everything a model can predict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from finetune.config import ObjectiveSection
from finetune.diffusion.weighting import timestep_weights

SCHEDULE = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
TIMESTEPS = torch.tensor([0, 1, 250, 500, 999])
SNR = (SCHEDULE.alphas_cumprod / (1 - SCHEDULE.alphas_cumprod))[TIMESTEPS]


def weights(prediction_type: str, **settings: Any) -> Any:
    return timestep_weights(TIMESTEPS, SCHEDULE, prediction_type, ObjectiveSection(**settings))


def test_no_weighting_is_one() -> None:
    assert weights("epsilon") == 1.0


def test_min_snr_as_diffusers_training_scripts_write_it() -> None:
    gamma = 3.0
    snr = compute_snr(SCHEDULE, TIMESTEPS)
    base = torch.stack([snr, gamma * torch.ones_like(TIMESTEPS)], dim=1).min(dim=1)[0]
    told: dict[str, Any] = {"weighting": "min_snr", "min_snr_gamma": gamma}
    torch.testing.assert_close(weights("epsilon", **told), base / snr)
    torch.testing.assert_close(weights("v_prediction", **told), base / (snr + 1))
    torch.testing.assert_close(weights("sample", **told), base)
    assert not torch.equal(weights("epsilon", weighting="min_snr"), weights("epsilon", **told))
    five = SNR.clamp(max=5) / SNR
    torch.testing.assert_close(weights("epsilon", weighting="min_snr"), five, rtol=1e-4, atol=0)


def test_debiased_and_p2_are_the_papers_on_noise() -> None:
    close: dict[str, Any] = {"rtol": 1e-4, "atol": 0}
    torch.testing.assert_close(weights("epsilon", weighting="debiased"), SNR**-0.5, **close)
    torch.testing.assert_close(weights("epsilon", weighting="p2"), 1 / (1 + SNR), **close)
    p2 = weights("epsilon", weighting="p2", p2_k=2.0, p2_gamma=0.5)
    torch.testing.assert_close(p2, (2 + SNR) ** -0.5, **close)


@pytest.mark.parametrize("weighting", ["min_snr", "debiased", "p2"])
def test_every_form_of_a_weighting_is_the_same_loss(weighting: str) -> None:
    # One wrong guess of the clean latents, told as noise, as velocity and as itself (DDPM's eq. 4; v of
    # arXiv:2202.00512, appendix D), must cost the same.
    latents, noise, wrong = torch.randn(3, 5, 4, 8, 8, generator=torch.Generator().manual_seed(0)).double()
    share = SCHEDULE.alphas_cumprod.double()[TIMESTEPS].view(-1, 1, 1, 1)
    noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
    guess = latents + 0.1 * wrong
    implied = (noisy - share.sqrt() * guess) / (1 - share).sqrt()
    errors = {
        "epsilon": implied - noise,
        "v_prediction": share.sqrt() * (implied - noise) - (1 - share).sqrt() * (guess - latents),
        "sample": guess - latents,
    }
    costs = [
        weights(kind, weighting=weighting) * error.square().mean((1, 2, 3)) for kind, error in errors.items()
    ]
    torch.testing.assert_close(costs[0], costs[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(costs[0], costs[2], rtol=1e-4, atol=0)


@pytest.mark.parametrize("weighting", ["min_snr", "debiased", "p2"])
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_zero_terminal_snr_gives_finite_weights(weighting: str, prediction_type: str) -> None:
    schedule = DDPMScheduler(rescale_betas_zero_snr=True)
    section = ObjectiveSection.model_validate({"weighting": weighting})
    told = timestep_weights(torch.tensor([0, 998, 999]), schedule, prediction_type, section)
    assert isinstance(told, torch.Tensor)
    assert told.isfinite().all()
    assert told[2] == 0  # noise alone says nothing of the picture, and errors of it are not the model's
