"""Batches joined to one: what a row has none of is filled in."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.diffusion.batch import Batch, Conditioning


def rows(*numbers: int, mask: Tensor | None = None, preserved: Tensor | None = None) -> Batch:
    count = len(numbers)
    return Batch(
        numbers,
        torch.zeros(count, 4, 2, 2),
        Conditioning(),
        torch.ones(count),
        tuple(map(str, numbers)),
        preserved,
        mask,
    )


def test_rows_without_a_mask_count_everywhere() -> None:
    mask = torch.tensor([0.0, 0.25, 0.5, 1.0]).view(1, 1, 2, 2)
    joined = Batch.join([rows(7, mask=mask), rows(-8, -9)])
    assert joined.mask is not None and joined.mask.dtype == torch.float32
    assert joined.mask.flatten(1).tolist() == [[0, 0.25, 0.5, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    turned = Batch.join([rows(-8), rows(7, mask=mask)])
    assert turned.mask is not None
    assert turned.mask.flatten(1).tolist() == [[1, 1, 1, 1], [0, 0.25, 0.5, 1]]
    assert Batch.join([rows(7), rows(-8)]).mask is None


def test_rows_that_say_nothing_of_it_are_not_preserved() -> None:
    joined = Batch.join([rows(4, 5, preserved=torch.tensor([True, False])), rows(-5)])
    assert joined.preserved is not None
    assert joined.preserved.tolist() == [True, False, False]
    assert joined.learned == (False, True, False)
    assert Batch.join([rows(4), rows(-5)]).preserved is None
