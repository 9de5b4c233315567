"""Samples of the VAE's posteriors."""

from __future__ import annotations

import torch

from finetune.data.latents import Posterior

MEAN, STD = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def test_a_sample_has_the_posteriors_moments() -> None:
    noise = torch.randn(20_000, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    latents = Posterior(MEAN[:1], STD[:1].abs()).sample(noise)
    assert torch.allclose(latents.mean(0), MEAN[0], atol=0.06)
    assert torch.allclose(latents.std(0), STD[0].abs(), rtol=0.05)
