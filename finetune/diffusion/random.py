"""Random draws as pure functions of (seed, global sample number, purpose): promise P1.

Nothing here keeps state. Code that needs a random value for the n-th sample of a run asks for a
generator made from n, so the value cannot depend on worker count, accumulation, batch split,
process count, resume, or on what else was drawn before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor


def draw_seed(seed: int, number: int, purpose: str) -> int:
    """A 63-bit seed for one draw, hashed with BLAKE2b so that neighbors share nothing.

    Args:
        seed: The run's seed.
        number: The global sample number (or an epoch number, for `purpose`s that are per epoch).
        purpose: What is drawn, e.g. "noise" or "timestep"; separates the streams.
    """
    key = f"{seed}/{number}/{purpose}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def generator(seed: int, number: int, purpose: str) -> torch.Generator:
    """A CPU generator for one draw (CPU, so that every device sees the same values).

    PyTorch's CPU generator (a Mersenne twister) starts from the low 32 bits of its seed. So two draws
    of one purpose coincide by chance once in 2³² pairs: about once among 100 000 samples, where two
    samples then share their noise and nothing else.
    """
    return torch.Generator().manual_seed(draw_seed(seed, number, purpose))


def normal(seed: int, numbers: Sequence[int], purpose: str, shape: Sequence[int]) -> Tensor:
    """Standard normal noise, one row a sample: `[len(numbers), *shape]`, fp32 on the CPU."""
    return torch.stack([torch.randn(*shape, generator=generator(seed, n, purpose)) for n in numbers])


def uniform(seed: int, numbers: Sequence[int], purpose: str) -> Tensor:
    """Uniform values in [0, 1), one a sample: `[len(numbers)]`, fp64 on the CPU."""
    return torch.stack(
        [torch.rand((), generator=generator(seed, n, purpose), dtype=torch.float64) for n in numbers]
    )


def picture_index(seed: int, number: int, count: int) -> int:
    """Which of `count` pictures the n-th sample shows: a fresh permutation each epoch."""
    epoch, position = divmod(number, count)
    return int(permutation(seed, epoch, count)[position])


@lru_cache(maxsize=1)
def permutation(seed: int, epoch: int, count: int, purpose: str = "order") -> Tensor:
    """The numbers below `count` in an epoch's random order: `[count]` int64."""
    return torch.randperm(count, generator=generator(seed, epoch, purpose))
