"""The values that a layer's update starts with."""

from __future__ import annotations

import math

import pytest
import torch

from finetune.adapters.updates import kaiming


@pytest.mark.parametrize("shape", [(40, 400), (40, 16, 5, 5)])
def test_a_start_is_that_of_a_plain_layer(shape: tuple[int, ...]) -> None:
    """PyTorch's own: uniform up to 1/√n with n inputs to each output (arXiv:1502.01852, with a = √5)."""
    values, limit = kaiming(shape, 3, "lora/mid_block"), 1 / math.sqrt(400)
    assert values.shape == shape and values.dtype == torch.float32
    assert 0.999 * limit < values.abs().max() <= limit
    assert values.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.02)
    assert abs(values.mean().item()) < 0.02 * limit


def test_a_start_depends_on_seed_and_name_alone() -> None:
    start = kaiming((4, 4), 3, "lora/mid_block")
    torch.manual_seed(5)
    assert torch.equal(kaiming((4, 4), 3, "lora/mid_block"), start)
    assert not torch.equal(kaiming((4, 4), 4, "lora/mid_block"), start)
    assert not torch.equal(kaiming((4, 4), 3, "lora/up_block"), start)
