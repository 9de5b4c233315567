"""The objective against the closed forms of its papers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, PNDMScheduler
from torch import Tensor

from finetune.config import ObjectiveSection
from finetune.diffusion.batch import Batch, Conditioning
from finetune.diffusion.objective import Objective, Predict
from finetune.diffusion.random import normal, uniform

BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def make_batch(numbers: tuple[int, ...] = (0, 1, 2, 3)) -> Batch:
    latents = torch.stack([torch.full((4, 8, 8), 0.1 * (n + 1)) for n in numbers])
    return Batch(numbers, latents, Conditioning(), torch.ones(len(numbers)), tuple(map(str, numbers)))


def alpha_bar(timesteps: Tensor) -> Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)[timesteps].float()[:, None, None, None]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_a_perfect_prediction_has_no_loss(prediction_type: str) -> None:
    # Inverts the forward process by its closed form (DDPM eq. 4; v of arXiv:2202.00512, appendix D).
    batch = make_batch()

    def perfect(noisy: Tensor, timesteps: Tensor, _: Conditioning) -> Tensor:
        share = alpha_bar(timesteps)
        noise = (noisy - share.sqrt() * batch.latents) / (1 - share).sqrt()
        if prediction_type == "epsilon":
            return noise
        if prediction_type == "sample":
            return (noisy - (1 - share).sqrt() * noise) / share.sqrt()
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


def test_preserved_rows_are_held_to_the_untrained_model() -> None:
    batch = replace(make_batch(), preserved=torch.tensor([False, True, False, True]))

    def untrained(noisy: Tensor, *_: object) -> Tensor:
        return noisy * 0.5

    def trained(noisy: Tensor, *_: object) -> Tensor:
        return noisy * 0.5 + 0.1

    scheduler = DDIMScheduler(**BETAS)
    losses = Objective(scheduler, 0, untrained=untrained)(trained, batch)
    assert torch.allclose(losses[[1, 3]], torch.full((2,), 0.01), atol=1e-6)
    plain = Objective(scheduler, 0)(trained, make_batch())
    assert torch.equal(losses[[0, 2]], plain[[0, 2]])
    with pytest.raises(ValueError, match="untrained"):
        Objective(scheduler, 0)(trained, batch)


def test_preserved_rows_count_everywhere_and_are_weighted_as_the_others() -> None:
    mask = torch.zeros(4, 1, 8, 8)
    mask[:, :, :2] = 1
    batch = replace(make_batch(), preserved=torch.tensor([False, True, False, True]), mask=mask)
    error = torch.linspace(0.1, 0.8, 64).view(1, 1, 8, 8)

    def untrained(noisy: Tensor, *_: object) -> Tensor:
        return noisy * 0.5

    def trained(noisy: Tensor, *_: object) -> Tensor:
        return noisy * 0.5 + error

    section = ObjectiveSection(weighting="p2")
    objective = Objective(DDIMScheduler(**BETAS), 0, section, untrained)
    share = alpha_bar(objective.timesteps(batch.numbers))[:, 0, 0, 0]
    expected = (1 - share) * error.square().mean()  # 1 / (1 + snr) = 1 − ᾱ
    assert torch.allclose(objective(trained, batch)[[1, 3]], expected[[1, 3]], rtol=1e-4)


COMBINED: dict[str, Any] = {
    "loss": "huber",
    "huber_c": 0.2,
    "weighting": "min_snr",
    "min_snr_gamma": 3.0,
    "offset_noise": 0.1,
    "input_perturbation": 0.05,
    "timesteps": (0.1, 0.9),
    "logit_normal": (0.5, 1.2),
    "zero_terminal_snr": True,
}


def half(noisy: Tensor, timesteps: Tensor, _: Conditioning) -> Tensor:
    """Some model."""
    return noisy * 0.5 + timesteps.view(-1, 1, 1, 1) / 1000


def masked(batch: Batch) -> Batch:
    shape = (len(batch), 1, 8, 8)
    return replace(
        batch,
        mask=torch.stack(
            [torch.rand(shape[1:], generator=torch.Generator().manual_seed(n)) for n in batch.numbers]
        ),
        weight=torch.linspace(0.5, 1.0, len(batch)),
    )


def test_a_step_with_everything_at_once_written_out() -> None:
    batch = masked(make_batch((4, 9, 2)))
    own = Objective(DDIMScheduler(**BETAS, prediction_type="v_prediction"), 3, ObjectiveSection(**COMBINED))

    plain = DDPMScheduler(**BETAS, rescale_betas_zero_snr=True)
    z = torch.distributions.Normal(0, 1).icdf(uniform(3, batch.numbers, "timestep"))
    t = (100 + 800 * torch.sigmoid(0.5 + 1.2 * z)).long()
    a = plain.alphas_cumprod[t].view(-1, 1, 1, 1)
    noise = normal(3, batch.numbers, "noise", (4, 8, 8))
    noise = noise + 0.1 * normal(3, batch.numbers, "offset noise", (4, 1, 1))
    seen = noise + 0.05 * normal(3, batch.numbers, "input perturbation", (4, 8, 8))
    noisy = a.sqrt() * batch.latents + (1 - a).sqrt() * seen
    velocity = a.sqrt() * noise - (1 - a).sqrt() * batch.latents
    x = half(noisy, t, batch.conditioning) - velocity
    c = 0.8 / (1 + ((1 - a) / a).sqrt()) ** 2 + 0.2
    huber = 2 * c * ((x**2 + c**2).sqrt() - c)
    assert batch.mask is not None
    rows = (huber * batch.mask).sum((1, 2, 3)) / (4 * batch.mask.sum((1, 2, 3)))
    snr = (a / (1 - a)).flatten()
    expected = rows * snr.clamp(max=3) / (snr + 1) * batch.weight
    torch.testing.assert_close(own(half, batch), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings", [{}, COMBINED, {"pyramid_noise": 0.6, "loss": "l1", "weighting": "debiased"}]
)
def test_a_rows_loss_does_not_depend_on_the_batch(settings: dict[str, Any]) -> None:
    def loss(predict: Predict, batch: Batch) -> Tensor:
        scheduler = DDIMScheduler(**BETAS, prediction_type="v_prediction")
        return Objective(scheduler, 3, ObjectiveSection(**settings))(predict, batch)

    whole = masked(make_batch((4, 9, 2)))
    for index, number in enumerate(whole.numbers):
        assert whole.mask is not None
        row = replace(
            make_batch((number,)), mask=whole.mask[index : index + 1], weight=whole.weight[index : index + 1]
        )
        torch.testing.assert_close(loss(half, row)[0], loss(half, whole)[index])


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"huber_c": 0.1}, "huber_c"),
        ({"huber_schedule": "snr", "loss": "l1"}, "huber_schedule"),
        ({"min_snr_gamma": 5}, "min_snr_gamma"),
        ({"min_snr_gamma": 5, "weighting": "p2"}, "min_snr_gamma"),
        ({"p2_gamma": 1, "weighting": "debiased"}, "p2_gamma"),
        ({"p2_k": 1}, "p2_k"),
        ({"pyramid_levels": 3}, "pyramid_levels"),
        ({"timesteps": (0.5, 0.5)}, "timesteps"),
    ],
)
def test_settings_without_effect_are_refused(settings: dict[str, Any], key: str) -> None:
    assert [fault.where for fault in ObjectiveSection(**settings).faults()] == [f"objective.{key}"]


def test_sensible_settings_are_not() -> None:
    for settings in (COMBINED, {"loss": "smooth_l1", "huber_c": 0.1}, {"weighting": "p2", "p2_k": 2}):
        assert not list(ObjectiveSection(**settings).faults())
