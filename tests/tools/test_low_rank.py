"""The best approximation of low rank, against torch's own decomposition and Eckart and Young's theorem."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from finetune.adapters import LowRank
from finetune.tools.low_rank import Limit, of_matrix, of_product

SHAPES = [(5, 8), (8, 5), (6, 6), (4, 3, 3, 3)]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora(shape: tuple[int, ...], rank: int) -> LowRank:
    kernel = [1] * (len(shape) - 2)
    return LowRank(drawn(rank, *shape[1:]), drawn(shape[0], rank, *kernel, seed=1), 2.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [1, 3])
def test_what_is_lost_is_the_discarded_singular_values(shape: tuple[int, ...], rank: int) -> None:
    change = drawn(*shape)
    left, values, right = torch.linalg.svd(change.flatten(1).double(), full_matrices=False)
    kept = of_matrix(change).cut(Limit(rank))
    best = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
    assert kept.lora.rank == rank == kept.lora.alpha and tuple(kept.lora.delta().shape) == shape
    torch.testing.assert_close(kept.lora.delta().flatten(1).double(), best, rtol=1e-5, atol=1e-6)
    error = (kept.lora.delta() - change).double().square().sum().item()
    assert kept.lost == pytest.approx(error, rel=1e-5) == values[rank:].square().sum().item()
    assert kept.whole == pytest.approx(change.double().square().sum().item(), rel=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rank", [2, 7])  # also above what the layer can have
def test_a_loras_spectrum_is_that_of_its_product(shape: tuple[int, ...], rank: int) -> None:
    layer = lora(shape, rank)
    scaled = 2.5 / rank * layer.up.flatten(1) @ layer.down.flatten(1)
    expected = torch.linalg.svdvals(scaled)
    spectrum = of_product(layer)
    count = min(rank, *scaled.shape)
    torch.testing.assert_close(spectrum.values, expected[:count], rtol=1e-4, atol=1e-5)
    whole = spectrum.cut(Limit())
    torch.testing.assert_close(whole.lora.delta().flatten(1), scaled, rtol=1e-4, atol=1e-5)
    assert whole.lost == 0 and whole.lora.rank == count


def test_the_two_ways_agree() -> None:
    layer = lora((9, 7), 4)
    for limit in (Limit(2), Limit(energy=0.9), Limit(1, 0.99)):
        one, other = of_product(layer).cut(limit), of_matrix(layer.delta()).cut(limit)
        assert one.lora.rank == other.lora.rank
        torch.testing.assert_close(one.lora.delta(), other.lora.delta(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        (Limit(), 4),  # energies 16, 4, 4, 1 of 25
        (Limit(3), 3),
        (Limit(9), 4),
        (Limit(energy=0.64), 1),
        (Limit(energy=0.65), 2),
        (Limit(energy=0.8), 2),
        (Limit(energy=0.97), 4),
        (Limit(energy=1.0), 4),
        (Limit(2, 0.97), 2),
        (Limit(2, 0.6), 1),
    ],
)
def test_the_smallest_rank_that_keeps_a_share_of_the_energy(limit: Limit, size: int) -> None:
    assert limit.size(torch.tensor([4.0, 2.0, 2.0, 1.0])) == size


@pytest.mark.parametrize("limit", [Limit(2), Limit(energy=0.5)])
def test_no_change_stays_none(limit: Limit) -> None:
    nothing = torch.zeros(4, 6)
    for spectrum in (of_matrix(nothing), of_product(LowRank(nothing, torch.zeros(3, 4), 1.0))):
        kept = spectrum.cut(limit)
        assert torch.equal(kept.lora.delta(), torch.zeros_like(kept.lora.delta()))
        assert kept.whole == kept.lost == 0 and kept.lora.rank >= 1


def test_singular_vectors_are_orthonormal() -> None:
    for spectrum in (of_matrix(drawn(5, 9)), of_product(lora((5, 9), 3))):
        eye = torch.eye(len(spectrum.values))
        torch.testing.assert_close(spectrum.left.T @ spectrum.left, eye, rtol=0, atol=1e-5)
        torch.testing.assert_close(spectrum.right @ spectrum.right.T, eye, rtol=0, atol=1e-5)
        assert bool((spectrum.values[1:] <= spectrum.values[:-1]).all())
