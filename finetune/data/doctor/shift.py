"""Whether a control picture lies where its picture does."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SIDE = 128
_NEAR = 2  # pixels of these
_CERTAIN = 2.0


def shift_between(gray: Image.Image, control: Image.Image) -> tuple[float, float]:
    """How far a control picture is displaced: phase correlation of the edges of both.

    Kuglin and Hines 1975, "The Phase Correlation Image Alignment Method".

    Args:
        gray: The picture, 8-bit gray.
        control: Its control picture, 8-bit gray.

    Returns:
        Down and to the right, as shares of height and width; zeros if they fit as they are, or if nothing
        can be said.
    """
    first, second = (np.fft.rfft2(_edges(image)) for image in (gray, control))
    cross = second * np.conj(first)
    strength = np.abs(cross)
    if not strength.max():
        return 0.0, 0.0
    match = np.fft.irfft2(cross / (strength + 1e-3 * strength.max()), (_SIDE, _SIDE))
    row, column = (int(i) for i in np.unravel_index(match.argmax(), match.shape))
    down, right = ((i + _SIDE // 2) % _SIDE - _SIDE // 2 for i in (row, column))
    here = np.roll(match, (_NEAR, _NEAR), (0, 1))[: 2 * _NEAR + 1, : 2 * _NEAR + 1].max()
    if max(abs(down), abs(right)) <= _NEAR or match.max() < _CERTAIN * max(here, 6 * match.std()):
        return 0.0, 0.0
    return down / _SIDE, right / _SIDE


def _edges(image: Image.Image) -> NDArray[np.float64]:
    """The strength of edges, `[128, 128]`, fading towards the border, which would look like an edge."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.BOX)
    levels = np.asarray(small, dtype=np.float64)
    strength = np.hypot(*np.gradient(levels))
    window = np.hanning(_SIDE)
    edges: NDArray[np.float64] = (strength - strength.mean()) * np.outer(window, window)
    return edges
