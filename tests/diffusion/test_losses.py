"""Distances and their mean against the formulas of their papers."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from torch.nn import functional as F

from finetune.config import ObjectiveSection
from finetune.diffusion.losses import huber_threshold, losses, mean, smooth_l1

ALPHAS = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").alphas_cumprod
TIMESTEPS = torch.tensor([0, 300, 999])
PREDICTION, TARGET = torch.randn(2, 3, 4, 5, 6, generator=torch.Generator().manual_seed(0))


def loss_of(error: torch.Tensor = PREDICTION - TARGET, **settings: object) -> torch.Tensor:
    return losses(error, TIMESTEPS, ALPHAS, None, ObjectiveSection.model_validate(settings))


def test_l2_and_l1_are_torchs() -> None:
    for name, function in (("l2", F.mse_loss), ("l1", F.l1_loss)):
        expected = function(PREDICTION, TARGET, reduction="none").mean((1, 2, 3))
        torch.testing.assert_close(loss_of(loss=name), expected)


@pytest.mark.parametrize("c", [0.01, 0.1, 1.0])
def test_huber_and_smooth_l1_are_the_papers(c: float) -> None:
    x = PREDICTION - TARGET
    settings = {"huber_c": c, "huber_schedule": "constant"}
    expected = 2 * (torch.sqrt(x**2 + c**2) - c)
    torch.testing.assert_close(loss_of(loss="smooth_l1", **settings), expected.mean((1, 2, 3)))
    torch.testing.assert_close(loss_of(loss="huber", **settings), c * expected.mean((1, 2, 3)))


def test_huber_is_l2_for_small_errors_and_l1_for_large_ones() -> None:
    x, c = torch.full((1, 1, 1, 1), 0.003, dtype=torch.float64), torch.tensor([0.3])
    assert float(0.3 * smooth_l1(x, c)) == pytest.approx(0.003**2, rel=1e-3)
    assert float(smooth_l1(x * 1e5, c)) == pytest.approx(2 * 300 - 2 * 0.3, rel=1e-4)


def test_the_thresholds_schedules() -> None:
    def threshold(schedule: str) -> list[float]:
        return huber_threshold(TIMESTEPS, ALPHAS, 0.1, schedule).tolist()

    assert threshold("constant") == pytest.approx([0.1] * 3)
    assert threshold("exponential") == pytest.approx(
        [math.exp(math.log(0.1) * t / 1000) for t in (0, 300, 999)]
    )
    sigmas = [math.sqrt((1 - a) / a) for a in ALPHAS[TIMESTEPS].tolist()]
    assert threshold("snr") == pytest.approx([0.9 / (1 + s) ** 2 + 0.1 for s in sigmas], rel=1e-4)
    assert huber_threshold(torch.tensor([0]), torch.zeros(1), 0.1, "snr").item() == pytest.approx(0.1)


def test_unset_thresholds_are_those_that_are_told() -> None:
    told = loss_of(loss="huber", huber_c=0.1, huber_schedule="snr")
    assert torch.equal(loss_of(loss="huber"), told)
    assert not torch.equal(loss_of(loss="huber", huber_c=0.2), told)


def test_a_masked_mean_is_the_mean_of_what_counts() -> None:
    values = (PREDICTION - TARGET).square()
    mask = torch.zeros(3, 1, 5, 6)
    mask[0, 0, 1:3, 2:4] = 1.0  # a small subject
    mask[1] = 0.7  # everything, less than fully
    counted = mean(values, mask)
    assert counted[0] == pytest.approx(values[0, :, 1:3, 2:4].mean().item())
    assert counted[1] == pytest.approx(values[1].mean().item())
    assert counted[2] == 0  # nothing, and no division by it
    mask[0] = torch.rand(1, 5, 6, generator=torch.Generator().manual_seed(1))
    expected = (values[0] * mask[0]).sum() / (4 * mask[0].sum())
    assert mean(values, mask)[0] == pytest.approx(expected.item())


@pytest.mark.parametrize("loss", ["l2", "l1", "huber", "smooth_l1"])
def test_what_does_not_count_gets_no_gradient(loss: Any) -> None:
    error = (PREDICTION - TARGET).requires_grad_()
    mask = torch.zeros(3, 1, 5, 6)
    mask[:, :, :2] = 1
    losses(error, TIMESTEPS, ALPHAS, mask, ObjectiveSection(loss=loss)).sum().backward()  # type: ignore[no-untyped-call]
    assert error.grad is not None
    assert error.grad[:, :, :2].all()
    assert not error.grad[:, :, 2:].any()
