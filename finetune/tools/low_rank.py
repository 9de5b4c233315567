"""The best approximation of a layer's change by a LoRA of lower rank.

Of all matrices of rank r, the r largest singular values with their vectors are nearest to a matrix, and the
squared distance is the sum of the other values' squares (Eckart and Young 1936). All of it is computed
exactly; nothing is drawn at random.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.adapters.algorithms.lora import LowRank, as_low_rank
from finetune.adapters.matrices import Shape
from finetune.errors import ConfigError


@dataclass(frozen=True)
class Limit:
    """How much of a change is kept.

    Attributes:
        rank: The largest rank.
        energy: The share of the energy (the sum of the squared singular values) to keep, above 0 and at most
            1; the smallest rank that keeps it is taken. With a rank too, whichever is smaller.
    """

    rank: int | None = None
    energy: float | None = None

    def check(self) -> None:
        """Makes sure that there is a limit.

        Raises:
            ConfigError: If there is none.
        """
        if self == Limit():
            raise ConfigError(
                "Nothing says how much is kept.", where="--rank", fix="Give --rank, --energy or both."
            )

    def size(self, values: Tensor) -> int:
        """The number of singular values to keep, at least one.

        Args:
            values: All of them, the largest first.
        """
        size = len(values)
        if self.energy is not None and (energies := values.double().square().cumsum(0))[-1] > 0:
            # Rounding may leave the last sum below the share; then all are kept.
            size = min(size, 1 + int((energies < self.energy * energies[-1]).sum()))
        return max(1, size if self.rank is None else min(size, self.rank))


@dataclass(frozen=True)
class Spectrum:
    """A change of a layer's weight by its singular values and vectors.

    Attributes:
        left: `[out, k]`, orthonormal columns.
        values: `[k]`, the largest first, fp32.
        right: `[k, in · kh · kw]`, orthonormal rows.
        shape: The shape of the weight.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    shape: Shape

    def cut(self, limit: Limit) -> Kept:
        """The best LoRA within a limit, with `alpha = rank`."""
        rank = limit.size(self.values)
        root = self.values[:rank].sqrt()  # half of it on either side, so that neither overflows in fp16
        lora = as_low_rank(self.left[:, :rank] * root, root[:, None] * self.right[:rank], 1.0, self.shape)
        energies = self.values.double().square()
        return Kept(lora, float(energies.sum()), float(energies[rank:].sum()))


@dataclass(frozen=True)
class Kept:
    """A LoRA in place of a change.

    Attributes:
        lora: The LoRA.
        whole: The squared norm of the change.
        lost: The squared norm of the change minus the LoRA's.
    """

    lora: LowRank
    whole: float
    lost: float


@torch.no_grad()
def of_product(layer: LowRank) -> Spectrum:
    """The spectrum of a LoRA without a magnitude, from its two matrices: fp32, exact.

    With QR decompositions of both, the singular values are those of a matrix as small as the rank.
    """
    first, left = torch.linalg.qr(layer.up.flatten(1) * layer.scale)
    last, right = torch.linalg.qr(layer.down.flatten(1).T)
    inner, values, outer = torch.linalg.svd(left @ right.T, full_matrices=False)
    return Spectrum(first @ inner, values, outer @ last.T, layer.shape)


@torch.no_grad()
def of_matrix(change: Tensor) -> Spectrum:
    """The spectrum of any change of a weight.

    The singular vectors of the shorter side are the eigenvectors of the change times its transpose, in fp64:
    exact for fp32 weights, and several times faster than a decomposition of the whole.

    Args:
        change: `[out, in]` or `[out, in, kh, kw]`.
    """
    matrix = change.double().flatten(1)
    wide = matrix.shape[0] <= matrix.shape[1]
    short = matrix if wide else matrix.T
    _, vectors = torch.linalg.eigh(short @ short.T)
    vectors = vectors.flip(1)  # eigh begins with the smallest
    others = vectors.T @ short
    # The norms rather than roots of the eigenvalues, which rounding makes negative.
    values = torch.linalg.vector_norm(others, dim=1)
    others = others / values.clamp(min=torch.finfo(torch.float64).tiny)[:, None]
    left, right = (vectors, others) if wide else (others.T, vectors.T)
    return Spectrum(left.float(), values.float(), right.float(), tuple(change.shape))
