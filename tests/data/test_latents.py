"""Posteriors that are in memory."""

from __future__ import annotations

import pytest
import torch

from finetune.data.latents import Posterior, StackedLatents, View

MEAN, STD = torch.randn(2, 5, 4, 3, 3, generator=torch.Generator().manual_seed(0))


def test_rows_are_those_asked_for() -> None:
    latents = StackedLatents(MEAN.half(), STD.half())
    posterior = latents.posterior([View(3), View(0), View(3)])
    assert torch.equal(posterior.mean, MEAN.half()[[3, 0, 3]].float())
    assert torch.equal(posterior.std, STD.half()[[3, 0, 3]].float())
    assert posterior.time_ids is None
    assert len(latents) == 5


def test_mirrored_rows_and_time_ids() -> None:
    ids = torch.arange(30.0).view(5, 6)
    latents = StackedLatents(MEAN, STD, mirrored=(MEAN + 1, STD + 2), time_ids=ids)
    posterior = latents.posterior([View(3, mirrored=True), View(0)])
    assert torch.equal(posterior.mean, torch.stack([MEAN[3] + 1, MEAN[0]]))
    assert torch.equal(posterior.std, torch.stack([STD[3] + 2, STD[0]]))
    assert posterior.time_ids is not None
    assert torch.equal(posterior.time_ids, ids[[3, 0]])


def test_what_cannot_be_is_refused() -> None:
    latents = StackedLatents(MEAN, STD)
    with pytest.raises(ValueError, match="no mirrored"):
        latents.posterior([View(0, mirrored=True)])
    with pytest.raises(ValueError, match="cropped"):
        latents.posterior([View(0, at=(0.5, 0.5))])
    with pytest.raises(ValueError, match="share a shape"):
        StackedLatents(MEAN, STD[:4])


def test_a_sample_has_the_posteriors_moments() -> None:
    noise = torch.randn(20_000, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    latents = Posterior(MEAN[:1], STD[:1].abs()).sample(noise)
    assert torch.allclose(latents.mean(0), MEAN[0], atol=0.06)
    assert torch.allclose(latents.std(0), STD[0].abs(), rtol=0.05)


def test_the_digest_sees_every_value_and_the_order() -> None:
    other = STD.clone()
    other[4, 3, 2, 2] += 1e-3
    cases = [(MEAN, STD), (MEAN, other), (MEAN.flip(0), STD.flip(0))]
    digests = [StackedLatents(mean, std).digest() for mean, std in cases]
    assert len(set(digests)) == 3
    assert StackedLatents(MEAN.clone(), STD).digest() == digests[0]
