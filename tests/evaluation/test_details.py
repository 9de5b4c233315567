"""Details of the subject, planted in features that are otherwise independent noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finetune.evaluation.details import Details

DEPTH, SIDE = 48, 6


def noise(count: int, seed: int) -> Tensor:
    return torch.randn(count, DEPTH, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def planted(pictures: Tensor, parts: Tensor, seed: int) -> Tensor:
    """The pictures, with each part put over another position of each."""
    where = torch.Generator().manual_seed(seed)
    flat = pictures.flatten(2).clone()
    for picture in flat:
        places = torch.randperm(SIDE * SIDE, generator=where)[: len(parts)]
        picture[:, places] = parts.T
    return flat.view_as(pictures)


def test_details_are_found_wherever_they_are() -> None:
    parts = noise(1, 1).flatten(2)[0].T[:8] * 1.5
    details = Details.between(noise(12, 2), planted(noise(5, 3), parts, 4))
    assert details(planted(noise(6, 5), parts, 6)).mean() == pytest.approx(1, abs=0.1)
    assert details(noise(6, 7)).mean() == pytest.approx(0, abs=0.1)
    # Half of the details are worth half: this is what likeness, a mean over the picture, cannot tell.
    assert details(planted(noise(6, 8), parts[:4], 9)).mean() == pytest.approx(0.5, abs=0.1)


def test_what_the_class_has_too_does_not_count() -> None:
    common, own = noise(1, 1).flatten(2)[0].T[:16].split(8)
    both = torch.cat([common, own])
    details = Details.between(planted(noise(12, 2), common, 3), planted(noise(5, 4), both, 5))
    assert details(planted(noise(6, 6), common, 7)).mean() == pytest.approx(0, abs=0.1)
    assert details(planted(noise(6, 8), own, 9)).mean() == pytest.approx(1, abs=0.1)


def test_a_single_training_picture_has_all_its_own_details() -> None:
    only = noise(1, 1)
    details = Details.between(noise(5, 2), only)
    assert float(details(only)[0]) == pytest.approx(1)
    assert float(details(noise(1, 3))[0]) == pytest.approx(0, abs=0.1)


def test_large_maps_are_made_smaller() -> None:
    known = torch.randn(2, 4, 70, 64, generator=torch.Generator().manual_seed(0))
    details = Details.between(known, known)
    assert details.spots.shape == (2, 32 * 32, 4) and details(known).shape == (2,)
