"""A control picture made from a picture: edges or grayscale."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from finetune.config import ControlKind
from finetune.errors import ConfigError

Pixels = NDArray[np.uint8]


def control_pixels(picture: Pixels, kind: ControlKind, thresholds: tuple[int, int] = (100, 200)) -> Pixels:
    """The control picture of a picture.

    Args:
        picture: `[H, W, 3]` RGB, at the size it is trained or sampled at: edges depend on it.
        kind: `none` gives the picture itself.
        thresholds: Canny's low and high thresholds.

    Returns:
        `[H, W, 3]`.

    Raises:
        ConfigError: If Canny edges are asked for and OpenCV is missing.
    """
    if kind == "none":
        return picture
    if kind == "canny":
        plane = _canny(picture, thresholds)
    else:
        plane = _edges(picture) if kind == "edges" else _gray(picture)
    return np.repeat(plane[..., None], 3, axis=-1)


def check_control_kind(kind: ControlKind) -> None:
    """Refuses a kind of control picture whose library is missing, before long work.

    Raises:
        ConfigError: Naming what to install.
    """
    if kind == "canny":
        _opencv()


def _canny(picture: Pixels, thresholds: tuple[int, int]) -> Pixels:
    """Thin white edges (Canny 1986, "A computational approach to edge detection"), by OpenCV."""
    edges: Pixels = _opencv().Canny(np.ascontiguousarray(picture), *thresholds)
    return edges


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ConfigError(
            "Canny edges need OpenCV, which is not installed.",
            where="data.preprocess = canny",
            fix='Run pip install "finetune[canny]", or use edges: soft ones, which need nothing more.',
        ) from error
    return cv2


def _edges(picture: Pixels) -> Pixels:
    """The gradient at each pixel (Sobel 1968), in the channel where it is largest.

    A step from black to white is white, whatever else is in the picture.
    """
    padded = np.pad(picture.astype(np.float32), ((1, 1), (1, 1), (0, 0)), mode="edge")
    along = padded[:-2] + 2 * padded[1:-1] + padded[2:]
    across = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    gradient = np.hypot(along[:, 2:] - along[:, :-2], across[2:] - across[:-2]).max(-1) / 4
    levels: Pixels = gradient.clip(0, 255).round().astype(np.uint8)
    return levels


def _gray(picture: Pixels) -> Pixels:
    """Luma by ITU-R BT.601, as Pillow and OpenCV compute it."""
    luma = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    levels: Pixels = luma.clip(0, 255).round().astype(np.uint8)
    return levels
