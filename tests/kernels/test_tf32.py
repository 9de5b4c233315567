"""What PyTorch is told for products of fp32 matrices; that it obeys is tested in tests/gpu."""

from __future__ import annotations

import pytest
import torch

from finetune.kernels import tf32


@pytest.mark.parametrize("on", [True, False])
def test_it_is_said_for_products_and_convolutions_and_taken_back(on: bool) -> None:
    def told() -> tuple[bool, bool]:
        return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    before = told()
    with tf32(on):
        assert told() == (on, on)
    assert told() == before == (False, True)  # PyTorch's defaults
