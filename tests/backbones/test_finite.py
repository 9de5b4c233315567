"""Whether weights are finite is seen without looking at each, and always rightly."""

from __future__ import annotations

import math

import pytest
import torch

from finetune.backbones.finite import is_finite

DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_largest_numbers_are_finite_though_their_sum_is_not(dtype: torch.dtype) -> None:
    largest = torch.full((1000,), torch.finfo(dtype).max)
    assert is_finite(largest.to(dtype))
    assert is_finite((-largest).to(dtype))


@pytest.mark.parametrize("dtype", DTYPES[:3])
@pytest.mark.parametrize("bad", [(math.nan,), (math.inf,), (-math.inf,), (math.inf, -math.inf)])
def test_one_bad_number_is_found_anywhere(dtype: torch.dtype, bad: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    for place in (0, 500, 997):
        values = torch.randn(1000, generator=generator).to(dtype)
        values[place : place + len(bad)] = torch.tensor(bad, dtype=dtype)
        assert not is_finite(values)
        assert not is_finite(values.view(10, 100).t())


def test_integers_and_nothing_are_finite() -> None:
    assert is_finite(torch.tensor([2**62] * 9))
    assert is_finite(torch.empty(0))
