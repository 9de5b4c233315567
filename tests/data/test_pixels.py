"""Squares of pictures for the autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data import scan_folder
from finetune.data.pixels import PixelSource


@pytest.mark.parametrize("cache", [True, False])
def test_pixels_are_the_middle_of_each_picture(mycat: Path, cache: bool) -> None:
    pictures = scan_folder(mycat).pictures
    source = PixelSource(pictures, 32, seed=0, cache=cache)
    made = source.pixels([3, 2, 3])
    assert made.shape == (3, 3, 32, 32) and made.dtype == torch.float32
    assert torch.equal(made[0], made[2])
    whole = np.asarray(Image.open(mycat / "3.png")).astype(np.float32)  # 64 x 33, cut from its middle
    middle = torch.from_numpy(whole).permute(2, 0, 1)[:, :, 16:48] / 127.5 - 1
    assert float((made[0] - middle[:, :32]).abs().mean()) < 0.05  # 33 rows became 32
    assert torch.equal(source.pixels([3])[0], made[0])


def test_what_is_kept_is_read_once(mycat: Path) -> None:
    pictures = scan_folder(mycat).pictures
    heard: list[tuple[int, int]] = []
    kept, read = (PixelSource(pictures, 32, seed=0, cache=cache) for cache in (True, False))
    for source in (kept, read):
        source.prepare(lambda done, of: heard.append((done, of)))
    assert heard == [(5, 5)]  # of the source that keeps
    before = kept.pixels(range(5))
    for path in mycat.glob("*.png"):
        path.unlink()
    assert torch.equal(kept.pixels(range(5)), before)
    with pytest.raises(Exception, match="no longer be read"):
        read.pixels([0])


def test_chunks_are_of_the_first_pictures(mycat: Path) -> None:
    source = PixelSource(scan_folder(mycat).pictures, 32, seed=0)
    assert list(source.chunks(at_once=2)) == [range(2), range(2, 4), range(4, 5)]
    assert list(source.chunks(3, at_once=2)) == [range(2), range(2, 3)]
    assert list(source.chunks(9)) == [range(5)]
