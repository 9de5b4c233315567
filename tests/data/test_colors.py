"""Color jitter: each change against its formula."""

from __future__ import annotations

import colorsys
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from finetune.data.colors import Colors
from tests.data.conftest import painted

Levels = NDArray[np.float64]

LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def changed(levels: Levels, colors: Colors) -> Levels:
    """The definitions, in floating point: `[H, W, 3]` in [0, 255]."""
    levels = (levels * colors.brightness).clip(0, 255)
    mean = (levels @ LUMA).mean()
    levels = (mean + (levels - mean) * colors.contrast).clip(0, 255)
    gray = (levels @ LUMA)[..., None]
    levels = (gray + (levels - gray) * colors.saturation).clip(0, 255)
    turned = []
    for pixel in levels.reshape(-1, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*(pixel / 255))
        turned.append(colorsys.hsv_to_rgb((hue + colors.hue) % 1, saturation, value))
    return np.array(turned).reshape(levels.shape) * 255


@pytest.mark.parametrize(
    ("colors", "most"),
    [
        (Colors(), 0),
        (Colors(brightness=1.4), 1),
        (Colors(brightness=0.6), 1),
        (Colors(contrast=1.5), 2),
        (Colors(contrast=0.3), 2),
        (Colors(saturation=1.6), 2),
        (Colors(saturation=0), 1),
        (Colors(hue=0.1), 8),  # 8 bits of hue and saturation
        (Colors(hue=-0.1), 8),
        (Colors(1.2, 0.8, 1.3, 0.05), 10),
    ],
)
def test_each_change_is_its_formula(colors: Colors, most: int) -> None:
    image = painted(30, 20, 3)
    levels = np.asarray(image).astype(np.float64)
    result = np.asarray(colors.of(image)).astype(np.float64)
    error = np.abs(result - changed(levels, colors))
    assert error.max() <= most + 1e-6
    assert error.mean() <= 1.5
    # Every change is much larger than the errors.
    assert colors == Colors() or np.abs(result - levels).mean() > 8


def test_a_third_of_a_turn_makes_red_green_and_green_blue() -> None:
    for before, after in (("red", (0, 255, 0)), ("lime", (0, 0, 255)), ("gray", (128, 128, 128))):
        turned = Colors(hue=1 / 3).of(Image.new("RGB", (2, 2), before)).getpixel((0, 0))
        assert isinstance(turned, tuple)
        assert np.abs(np.array(turned) - np.array(after)).max() <= 2


def test_strength_is_simclrs() -> None:
    # 0.8 s for brightness, contrast and saturation, 0.2 s for the hue.
    least, most = Colors.drawn(0.5, [0.0] * 4), Colors.drawn(0.5, [1.0] * 4)
    for colors, sign in ((least, -1), (most, 1)):
        expected = [1 + sign * 0.4] * 3 + [sign * 0.1]
        assert vars(colors) == pytest.approx(dict(zip(vars(colors), expected, strict=True)))
    assert Colors.drawn(1.0, [0.5] * 4) == Colors() == Colors.drawn(0.0, [0.1, 0.9, 0.3, 0.7])
    own = Colors.drawn(1.0, [0.1, 0.2, 0.3, 0.4])  # none is another's
    assert vars(own) == pytest.approx(
        {"brightness": 0.36, "contrast": 0.52, "saturation": 0.68, "hue": -0.04}
    )


def test_the_key_is_of_every_value() -> None:
    plain = Colors()
    changes = [replace(plain, **{name: 0.5}) for name in vars(plain)]
    assert len({plain.key, *(colors.key for colors in changes)}) == 5
