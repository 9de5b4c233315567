"""Batches joined to one: what a row has none of is filled in."""

from __future__ import annotations

from dataclasses import replace

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
    assert joined.preserved.dtype == torch.bool
    assert joined.learned == (False, True, False)
    assert Batch.join([rows(4), rows(-5)]).preserved is None


def test_rows_of_what_the_unet_is_told_are_picked_and_joined_again() -> None:
    told = Conditioning(hidden=torch.randn(3, 7, 5), pooled=torch.randn(3, 4))
    first, others = told.rows(torch.tensor([0])), told.rows(torch.tensor([False, True, True]))
    assert others.hidden is not None and others.pooled is not None
    assert torch.equal(others.hidden, told.hidden[1:])  # type: ignore[index]
    assert torch.equal(others.pooled, told.pooled[1:])  # type: ignore[index]
    assert others.tokens is others.time_ids is others.control is None
    joined = Conditioning.stack([first, others])
    assert joined.hidden is not None and joined.pooled is not None
    assert torch.equal(joined.hidden, told.hidden)  # type: ignore[arg-type]
    assert torch.equal(joined.pooled, told.pooled)  # type: ignore[arg-type]
    assert Conditioning.stack([told]).hidden is not None


def test_all_of_a_batch_goes_to_a_device() -> None:
    told = Conditioning(hidden=torch.zeros(1, 7, 5), control=torch.zeros(1, 3, 8, 8))
    batch = replace(rows(7, mask=torch.ones(1, 1, 2, 2), preserved=torch.tensor([True])), conditioning=told)
    moved = batch.to("meta")
    assert (moved.numbers, moved.names) == (batch.numbers, batch.names)
    tensors = (moved.latents, moved.weight, moved.mask)
    inner = (moved.conditioning.hidden, moved.conditioning.control)
    assert all(value is not None and value.device.type == "meta" for value in tensors + inner)
    assert moved.preserved is batch.preserved  # which rows, asked for without waiting for a GPU
    assert rows(7).to("meta").mask is None
