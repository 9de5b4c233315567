"""Color jitter: a picture's brightness, contrast, saturation and hue, each changed a little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageEnhance
from typing_extensions import Self

VERSION = "1"
"""Changes whenever the same values would give other pixels; part of every cache key."""

# Of a strength of 1, by SimCLR's definition of it.
_FACTOR, _TURN = 0.8, 0.2


@dataclass(frozen=True)
class Colors:
    """How the colors of a picture are changed, in this order.

    The four changes are those of torchvision's `ColorJitter`, in a fixed order.

    Attributes:
        brightness: What all levels are multiplied with; 1 leaves them.
        contrast: What their distance from the picture's mean luma is multiplied with.
        saturation: What their distance from their own luma is multiplied with.
        hue: In turns of the color circle of HSV, to 1/256.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0

    @classmethod
    def drawn(cls, strength: float, draws: Sequence[float]) -> Self:
        """Uniform around no change: factors within 1 ± 0.8 strength, the hue within ± 0.2 strength turns.

        This is what SimCLR means by strength (Chen et al. 2020, arXiv:2002.05709, appendix A).

        Args:
            strength: In [0, 1].
            draws: Four uniform values in [0, 1).
        """
        brightness, contrast, saturation, hue = (strength * (2 * draw - 1) for draw in draws)
        return cls(1 + _FACTOR * brightness, 1 + _FACTOR * contrast, 1 + _FACTOR * saturation, _TURN * hue)

    @property
    def key(self) -> str:
        """What jittered pixels depend on besides those of the picture, for cache keys (P4)."""
        return f"jitter-{VERSION} {self.brightness} {self.contrast} {self.saturation} {self.hue}"

    def of(self, image: Image.Image) -> Image.Image:
        """An RGB picture in these colors; each change is rounded to whole levels and ends at 0 and 255."""
        image = ImageEnhance.Brightness(image).enhance(self.brightness)
        image = ImageEnhance.Contrast(image).enhance(self.contrast)
        image = ImageEnhance.Color(image).enhance(self.saturation)
        shift = round(256 * self.hue) % 256
        if not shift:
            return image  # HSV in 8 bits would lose a little for nothing
        hue, saturation, value = image.convert("HSV").split()
        turned = hue.point([(level + shift) % 256 for level in range(256)])
        return Image.merge("HSV", (turned, saturation, value)).convert("RGB")
