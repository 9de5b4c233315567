"""Small pictures to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from finetune.data.latents import View

SQUARE = (32, 32)


def square_view(picture: int, mirrored: bool = False, at: tuple[float, float] | None = None) -> View:
    """A square of a picture."""
    return View(picture, SQUARE, mirrored, at)


def squares(pictures: int, flip: bool) -> list[View]:
    """The center square of so many pictures, and its mirror image if `flip`."""
    return [square_view(index, side) for index in range(pictures) for side in (False, True)[: 1 + flip]]


def painted(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture that is the same for the same seed and differs everywhere."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (5, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def mycat(tmp_path: Path) -> Path:
    """A folder of five pictures of different shapes, two of them with captions."""
    folder = tmp_path / "mycat"
    folder.mkdir()
    for i, (width, height) in enumerate([(48, 32), (32, 48), (40, 40), (64, 33), (33, 64)]):
        painted(width, height, i).save(folder / f"{i}.png")
    (folder / "1.txt").write_text("a red cat\n")
    (folder / "3.txt").write_text("a blue dog")
    return folder
