"""Where latents come from: the interface, and the simplest source."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """Which picture a sample shows, and how.

    Attributes:
        picture: Index of the picture.
        mirrored: Whether left and right are swapped.
        at: Crop position as fractions in [0, 1) of the free range down and to the right; None for the
            center.
    """

    picture: int
    mirrored: bool = False
    at: tuple[float, float] | None = None


def every_view(pictures: int, flip: bool) -> list[View]:
    """The center crop of so many pictures, each followed by its mirror image if `flip`."""
    sides = (False, True) if flip else (False,)
    return [View(index, mirrored) for index in range(pictures) for mirrored in sides]


@dataclass(frozen=True)
class Posterior:
    """What the VAE's encoder says about some views (Kingma & Welling 2013, arXiv:1312.6114).

    Attributes:
        mean: `[B, C, h, w]` fp32, scaled as the UNet wants it.
        std: `[B, C, h, w]` fp32, scaled likewise.
        time_ids: `[B, 6]` SDXL's size conditioning; None for other families.
    """

    mean: Tensor
    std: Tensor
    time_ids: Tensor | None = None

    def sample(self, noise: Tensor) -> Tensor:
        """The latents for standard normal `noise` `[B, C, h, w]`."""
        return self.mean + self.std * noise


class Latents(Protocol):
    """A numbered collection of pictures as the VAE sees them."""

    def __len__(self) -> int:
        """How many pictures there are."""

    def posterior(self, views: Sequence[View]) -> Posterior:
        """The posterior of each view, on the CPU."""

    def digest(self) -> str:
        """A hash, in hex, of what the pictures are and of their order."""


class Companion(Protocol):
    """A second picture beside each picture (a control picture, a mask), seen through the same views."""

    def rows(self, views: Sequence[View]) -> Tensor:
        """`[B, K, H, W]` fp32 in [0, 1] on the CPU, cropped and mirrored as the pictures are."""

    def digest(self) -> str:
        """A hash, in hex, of what they are and of their order."""

    def digests(self) -> list[str]:
        """The SHA-256, in hex, of each one's file."""


class StackedLatents:
    """Posteriors that are in memory already, e.g. those of pictures that a program drew.

    Args:
        mean: `[N, C, h, w]` scaled means of any floating type.
        std: `[N, C, h, w]` scaled standard deviations.
        mirrored: Mean and std of the mirrored pictures, if samples are to be flipped.
        time_ids: `[N, 6]` (SDXL).

    Raises:
        ValueError: If the shapes do not agree.
    """

    def __init__(
        self,
        mean: Tensor,
        std: Tensor,
        *,
        mirrored: tuple[Tensor, Tensor] | None = None,
        time_ids: Tensor | None = None,
    ) -> None:
        shapes = {t.shape for t in (mean, std, *(mirrored or ()))}
        if len(shapes) != 1 or mean.dim() != 4 or (time_ids is not None and time_ids.shape != (len(mean), 6)):
            raise ValueError(f"means and standard deviations must share a shape [N, C, h, w], not {shapes}")
        self._tables = ((mean, std), mirrored)
        self._time_ids = time_ids

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._tables[0][0])

    def posterior(self, views: Sequence[View]) -> Posterior:
        """The posterior of each view, in fp32.

        Raises:
            ValueError: If a view is cropped, or mirrored where no mirrored posteriors were given.
        """
        if any(v.at is not None for v in views):
            raise ValueError("latents cannot be cropped at random; pictures can, before they are encoded")
        if not any(v.mirrored for v in views):
            index = torch.tensor([v.picture for v in views])
            mean, std = (t[index].float() for t in self._tables[0])
        else:
            mean, std = (torch.stack([self._table(v)[i][v.picture] for v in views]).float() for i in (0, 1))
        ids = None if self._time_ids is None else self._time_ids[[v.picture for v in views]]
        return Posterior(mean, std, ids)

    def digest(self) -> str:
        """SHA-256 of the means and standard deviations."""
        digest = hashlib.sha256()
        for table in self._tables[0]:
            digest.update(f"{table.dtype} {tuple(table.shape)}".encode())
            digest.update(table.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def _table(self, view: View) -> tuple[Tensor, Tensor]:
        table = self._tables[view.mirrored]
        if table is None:
            raise ValueError("no mirrored posteriors were given")
        return table
