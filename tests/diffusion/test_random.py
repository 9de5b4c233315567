"""Draws are pure functions of (seed, sample number, purpose)."""

from __future__ import annotations

import hashlib
import struct

import torch

from finetune.diffusion.random import draw_seed, normal, picture_index, uniform


def test_rows_do_not_depend_on_the_batch_they_are_in() -> None:
    together = normal(3, [5, 6, 7], "noise", (4, 2, 2))
    apart = torch.cat([normal(3, [n], "noise", (4, 2, 2)) for n in (5, 6, 7)])
    assert torch.equal(together, apart)


def test_the_global_generator_is_neither_used_nor_moved() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = normal(0, [1], "noise", (3,))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(normal(0, [1], "noise", (3,)), first)


def test_seeds_numbers_and_purposes_have_streams_of_their_own() -> None:
    seeds = {draw_seed(s, n, p) for s in range(20) for n in range(20) for p in ("noise", "timestep")}
    assert len(seeds) == 20 * 20 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert len({seed % 2**32 for seed in seeds}) == len(seeds)  # all that PyTorch's generator takes


def test_a_seed_is_the_digest_that_it_always_was() -> None:
    (word,) = struct.unpack("<Q", hashlib.blake2b(b"3/-7/noise", digest_size=8).digest())
    assert draw_seed(3, -7, "noise") == word // 2
    drawn = torch.randn(2, 5, generator=torch.Generator().manual_seed(word // 2))
    assert torch.equal(normal(3, [-7], "noise", (2, 5))[0], drawn)


def test_draws_have_the_moments_they_should() -> None:
    noise = normal(0, range(2000), "noise", (8,))
    assert abs(float(noise.mean())) < 0.03
    assert abs(float(noise.std()) - 1) < 0.03
    shares = uniform(0, range(2000), "timestep")
    assert abs(float(shares.mean()) - 0.5) < 0.02
    assert abs(float(shares.var()) - 1 / 12) < 0.01
    assert not torch.equal(shares, shares.float().double())  # all 53 bits, or large pictures lose columns


def test_every_picture_comes_once_an_epoch_in_a_new_order() -> None:
    epochs = [[picture_index(0, epoch * 7 + k, 7) for k in range(7)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
