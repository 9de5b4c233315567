"""What a sample shows, what the VAE says about it, and what may lie beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from finetune.data.colors import Colors
from finetune.data.folder import Picture
from finetune.data.preprocess import Placement, Size, cropped, place


@dataclass(frozen=True)
class View:
    """Which picture a sample shows, and how.

    Attributes:
        picture: Index of the picture.
        size: Height and width it is trained at, in pixels.
        mirrored: Whether left and right are swapped.
        at: Crop position as fractions in [0, 1) of the free range down and to the right; None for the
            center.
        colors: How its colors are changed; None to leave them. Never those of what lies beside the picture.
    """

    picture: int
    size: Size
    mirrored: bool = False
    at: tuple[float, float] | None = None
    colors: Colors | None = None

    def of(self, pictures: Sequence[Picture]) -> Placement:
        """Where in its picture it is."""
        picture = pictures[self.picture]
        return place((picture.height, picture.width), self.size, at=self.at, mirrored=self.mirrored)

    def levels(self, pictures: Sequence[Picture]) -> Tensor:
        """`[3, height, width]` uint8: what is trained on; call it inside `quiet_pillow`.

        Raises:
            DataError: If the picture's file was changed.
        """
        with pictures[self.picture].opened() as image:
            return cropped(image, self.of(pictures), self.colors)


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


class Companion(Protocol):
    """A second picture beside each picture (a control picture, a mask), seen through the same views."""

    def rows(self, views: Sequence[View]) -> Tensor:
        """`[B, K, H, W]` fp32 in [0, 1] on the CPU, cropped and mirrored as the pictures are.

        The views have one size.
        """

    def digest(self) -> str:
        """A hash, in hex, of what they are and of their order."""

    def digests(self) -> list[str]:
        """The SHA-256, in hex, of each one's file."""
