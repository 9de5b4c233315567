"""Resizing, cropping, mirroring, and the sizes told to SDXL."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.data.preprocess import cut_out, place
from tests.data.conftest import painted


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("shape", [(32, 32), (48, 32), (31, 77), (100, 63), (640, 333)])
def test_centre_crop_is_pillows(shape: tuple[int, int], size: int) -> None:
    image = painted(*shape)
    placement = place((image.height, image.width), (size, size))
    pixels = cut_out(image, placement)
    assert pixels.shape == (3, size, size)
    assert pixels.dtype == torch.float32
    scale = size / min(shape)
    width, height = round(shape[0] * scale), round(shape[1] * scale)
    whole = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - size) // 2, (height - size) // 2
    expected = np.asarray(whole.crop((left, top, left + size, top + size))).astype(np.float32) / 127.5 - 1
    assert torch.equal(pixels, torch.from_numpy(expected).permute(2, 0, 1))
    assert placement.corner == (top, left)
    assert placement.original == (image.height, image.width)


def test_reducing_is_lanczos_over_every_pixel() -> None:
    image = Image.effect_noise((320, 400), 120).convert("RGB")  # 10 times as large
    values = np.asarray(image).astype(np.float64)
    for axis in (0, 1):
        # A window of three lobes to each side, 10 pixels each, around the center of each new pixel.
        count = values.shape[axis]
        x = (np.arange(count) + 0.5)[None] / 10 - (np.arange(count // 10) + 0.5)[:, None]
        weights = np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)
        weights /= weights.sum(1, keepdims=True)
        values = np.moveaxis(np.tensordot(weights, values, (1, axis)), 0, axis)
    pixels = cut_out(image, place((400, 320), (32, 32))) * 127.5 + 127.5
    expected = torch.from_numpy(values[4:36]).permute(2, 0, 1)
    assert (pixels - expected).abs().max() < 1.6  # two roundings to whole levels


def test_the_range_is_minus_one_to_one() -> None:
    for colour, value in (("black", -1.0), ("white", 1.0)):
        pixels = cut_out(Image.new("RGB", (50, 70), colour), place((70, 50), (32, 32)))
        assert (pixels == value).all()


def test_mirrored_is_the_mirror_image_and_its_corner_is_seen_from_the_other_side() -> None:
    image = painted(101, 64)
    at = (0.0, 0.3)
    plain, mirrored = place((64, 101), (64, 64), at=at), place((64, 101), (64, 64), at=at, mirrored=True)
    assert torch.equal(cut_out(image, mirrored), cut_out(image, plain).flip(-1))
    # The same square, looked for in the mirrored picture.
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    top, left = mirrored.corner
    square = np.array(flipped.crop((left, top, left + 64, top + 64)))
    assert torch.equal(cut_out(image, mirrored), torch.from_numpy(square).permute(2, 0, 1) / 127.5 - 1)


def test_drawn_places_reach_every_corner_and_stay_inside() -> None:
    fractions = [i / 1000 for i in range(1000)]
    lefts = [place((32, 40), (32, 32), at=(f, f)).cut for f in fractions]
    assert {left for _, left in lefts} == set(range(9))
    assert {top for top, _ in lefts} == {0}
    assert place((40, 32), (32, 32), at=(1 - 2**-53, 0)).cut == (8, 0)


def test_small_pictures_are_enlarged_and_extreme_ones_fit() -> None:
    for shape in [(5, 7), (1, 1), (1, 500), (3000, 2)]:
        image = painted(*shape)
        assert cut_out(image, place((image.height, image.width), (32, 32))).shape == (3, 32, 32)
