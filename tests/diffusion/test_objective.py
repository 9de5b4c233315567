"""The objective against the closed forms of its papers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DDIMScheduler, PNDMScheduler
from torch import Tensor

from finetune.diffusion.batch import Batch, Conditioning
from finetune.diffusion.objective import Objective

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_batch(numbers: tuple[int, ...] = (0, 1, 2, 3)) -> Batch:
    latents = torch.stack([torch.full((4, 8, 8), 0.1 * (n + 1)) for n in numbers])
    return Batch(numbers, latents, Conditioning(), torch.ones(len(numbers)), tuple(map(str, numbers)))


def alpha_bar(timesteps: Tensor) -> Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)[timesteps].float()[:, None, None, None]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_has_no_loss(prediction_type: str) -> None:
    # Inverts the forward process by its closed form (DDPM eq. 4; v of arXiv:2202.00512, appendix D).
    batch = make_batch()

    def perfect(noisy: Tensor, timesteps: Tensor, _: Conditioning) -> Tensor:
        share = alpha_bar(timesteps)
        noise = (noisy - share.sqrt() * batch.latents) / (1 - share).sqrt()
        if prediction_type == "epsilon":
            return noise
        return share.sqrt() * noise - (1 - share).sqrt() * batch.latents

    objective = Objective(DDIMScheduler(**BETAS, prediction_type=prediction_type), seed=0)
    assert objective(perfect, batch).max() < 1e-6


def test_predicting_nothing_costs_the_power_of_the_noise() -> None:
    objective = Objective(PNDMScheduler(**BETAS), seed=0)
    batch = make_batch(tuple(range(256)))
    losses = objective(lambda noisy, *_: torch.zeros_like(noisy), batch)
    assert losses.shape == (256,)
    assert abs(float(losses.mean()) - 1) < 0.02


def test_weights_scale_rows() -> None:
    objective = Objective(DDIMScheduler(**BETAS), seed=0)
    batch = make_batch()
    weighted = replace(batch, weight=torch.tensor([1.0, 0.0, 2.0, 0.5]))

    def nothing(noisy: Tensor, *_: object) -> Tensor:
        return torch.zeros_like(noisy)

    assert torch.equal(objective(nothing, weighted), objective(nothing, batch) * weighted.weight)


def test_timesteps_cover_the_schedule_evenly() -> None:
    timesteps = Objective(DDIMScheduler(**BETAS), seed=0).timesteps(tuple(range(5000)))
    assert int(timesteps.min()) >= 0
    assert int(timesteps.max()) <= 999
    tenths = torch.bincount(timesteps // 100, minlength=10)
    assert int((tenths - 500).abs().max()) < 100


def test_an_unknown_prediction_type_is_refused() -> None:
    with pytest.raises(ValueError, match="sample"):
        Objective(DDIMScheduler(**BETAS, prediction_type="sample"), seed=0)


def test_preserved_rows_are_held_to_the_untrained_model() -> None:
    batch = replace(make_batch(), preserved=torch.tensor([False, True, False, True]))

    def untrained(noisy: Tensor, *_: object) -> Tensor:
        return noisy * 0.5

    def trained(noisy: Tensor, *_: object) -> Tensor:
        return noisy * 0.5 + 0.1

    scheduler = DDIMScheduler(**BETAS)
    losses = Objective(scheduler, 0, untrained)(trained, batch)
    assert torch.allclose(losses[[1, 3]], torch.full((2,), 0.01), atol=1e-6)
    plain = Objective(scheduler, 0)(trained, make_batch())
    assert torch.equal(losses[[0, 2]], plain[[0, 2]])
    with pytest.raises(ValueError, match="untrained"):
        Objective(scheduler, 0)(trained, batch)
