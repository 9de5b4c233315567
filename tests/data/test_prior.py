"""Prior preservation as rows of the batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.config import DataSection
from finetune.data import PictureSource, PriorSource, scan_folder
from finetune.diffusion.batch import Conditioning
from finetune.diffusion.objective import Objective
from tests.tiny import only

WEIGHT = 0.25


def source(folder: Path, backbone: Backbone, prompt: str, **data: Any) -> PictureSource:
    return PictureSource(scan_folder(folder, prompt), backbone, DataSection(buckets=False, **data), 7)


@pytest.fixture
def prior(mycat: Path, backbone: Backbone) -> PriorSource:
    """The same pictures as a subject and as its class."""
    made = PriorSource(source(mycat, backbone, "mycat"), source(mycat, backbone, "a cat"), WEIGHT)
    made.prepare()
    return made


def test_each_sample_brings_one_of_the_class(prior: PriorSource) -> None:
    batch = only(prior.batches(range(3)))
    assert batch.numbers == (0, 1, 2, -1, -2, -3)
    assert batch.weight.tolist() == [1, 1, 1, WEIGHT, WEIGHT, WEIGHT]
    alone = only(prior.instances.batches(range(3)))
    assert torch.equal(batch.latents[:3], alone.latents)
    assert batch.conditioning.hidden is not None and alone.conditioning.hidden is not None
    assert torch.equal(batch.conditioning.hidden[:3], alone.conditioning.hidden)
    assert not torch.equal(batch.conditioning.hidden[:3], batch.conditioning.hidden[3:])


def test_a_row_does_not_depend_on_those_beside_it(prior: PriorSource) -> None:
    whole, parts = only(prior.batches(range(5))), [only(prior.batches([n])) for n in range(5)]
    assert torch.equal(whole.latents[:5], torch.cat([part.latents[:1] for part in parts]))
    assert torch.equal(whole.latents[5:], torch.cat([part.latents[1:] for part in parts]))


def test_one_progress_bar_spans_both(prior: PriorSource) -> None:
    told: list[tuple[int, int]] = []
    prior.prepare(lambda done, total: told.append((done, total)))
    done, totals = [d for d, _ in told], {total for _, total in told}
    assert done == sorted(done) and totals == {done[-1]}


def test_the_record_tells_subject_and_class_apart(prior: PriorSource) -> None:
    record, subject = prior.record(), prior.instances.record()
    assert record[:5] == subject
    assert [entry["file"] for entry in record[5:]] == [f"class/{entry['file']}" for entry in subject]
    assert [entry.get("class") for entry in record] == [None] * 5 + ["true"] * 5
    assert {entry["caption"] for entry in record[5:]} == set(prior.classes.captions())


def test_every_class_picture_is_seen_once_an_epoch(prior: PriorSource) -> None:
    count = len(prior.classes)
    assert len(set(only(prior.batches(range(count))).names[count:])) == count


def test_the_loss_is_that_of_the_subject_and_lambda_times_that_of_the_class(
    prior: PriorSource, backbone: Backbone
) -> None:
    """L + λ·L_prior (arXiv:2208.12242, equation 2), as the trainer sums it: over rows, for each sample."""
    batch = only(prior.batches(range(4)))
    seen: dict[str, Tensor] = {}

    def predict(noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        seen.update(noisy=noisy, timesteps=timesteps)
        return noisy * 0.3

    objective = Objective(backbone.scheduler, 7)
    loss = objective(predict, batch).sum() / 4

    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)[seen["timesteps"]].float().view(-1, 1, 1, 1)
    noise = (seen["noisy"] - kept.sqrt() * batch.latents) / (1 - kept).sqrt()
    velocity = kept.sqrt() * noise - (1 - kept).sqrt() * batch.latents
    target = noise if backbone.prediction_type == "epsilon" else velocity
    squares = (seen["noisy"] * 0.3 - target).square()
    assert len(set(seen["timesteps"].tolist())) > 4, "a class row has draws of its own"
    torch.testing.assert_close(loss, squares[:4].mean() + WEIGHT * squares[4:].mean(), rtol=1e-4, atol=1e-5)
