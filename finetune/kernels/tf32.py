"""Products of fp32 matrices on NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """Inside, inputs of fp32 products and convolutions are rounded to ten bits of mantissa, or are not.

    By default PyTorch rounds those of convolutions alone.

    Args:
        on: TF32 is several times as fast; it needs a GPU from Ampere on, and does nothing elsewhere.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = on
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before
