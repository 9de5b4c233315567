"""Variants of pictures: which there are, which a sample draws, and that all are encoded beforehand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.config import DataSection, PairsSection
from finetune.data import PairSource, Picture, PictureSource, View, scan_folder, scan_pairs
from finetune.data.augment import Augmentation
from finetune.data.colors import Colors
from finetune.diffusion.random import uniform
from tests.data.conftest import SQUARE, painted
from tests.data.entries import entries
from tests.data.test_source import assert_same, joined
from tests.tiny import only

if TYPE_CHECKING:
    from finetune.backbones import Backbone

BOTH: dict[str, Any] = {"crop": "random", "color_jitter": 0.3, "flip": True}
ITEMS = [(index, SQUARE) for index in range(5)]  # 0: 48x32, 1: 32x48, 2: 40x40, 3: 64x33, 4: 33x64


@pytest.fixture
def pictures(mycat: Path) -> tuple[Picture, ...]:
    return scan_folder(mycat).pictures


def augmentation(pictures: tuple[Picture, ...], seed: int = 7, **data: Any) -> Augmentation:
    return Augmentation(pictures, DataSection(**data), seed)


@pytest.mark.parametrize("cache", [True, False])
def test_a_view_is_a_function_of_the_samples_number(pictures: tuple[Picture, ...], cache: bool) -> None:
    own, shown = augmentation(pictures, cache=cache, **BOTH), [n % 5 for n in range(40)]
    whole = own.views(range(40), shown, SQUARE)
    assert [own.views([n], [n % 5], SQUARE)[0] for n in reversed(range(40))] == whole[::-1]
    assert (
        augmentation(pictures, cache=cache, **BOTH).views(range(10, 20), shown[10:20], SQUARE) == whole[10:20]
    )
    assert augmentation(pictures, seed=8, cache=cache, **BOTH).views(range(40), shown, SQUARE) != whole
    assert len(set(whole)) > 25


def test_without_a_cache_every_sample_draws_its_own(pictures: tuple[Picture, ...]) -> None:
    views = augmentation(pictures, cache=False, **BOTH).views(range(50), [0] * 50, SQUARE)
    assert len({view.at for view in views}) == len({view.colors for view in views}) == 50
    for number, view in enumerate(views):
        draws = {
            purpose: float(uniform(7, [number], purpose))
            for purpose in ("crop top", "crop left", "brightness", "contrast", "saturation", "hue")
        }
        assert view.at == (draws["crop top"], draws["crop left"])
        factors = [1 + 0.3 * 0.8 * (2 * draws[name] - 1) for name in ("brightness", "contrast", "saturation")]
        assert view.colors is not None
        own = [view.colors.brightness, view.colors.contrast, view.colors.saturation, view.colors.hue]
        assert own == pytest.approx([*factors, 0.3 * 0.2 * (2 * draws["hue"] - 1)])


def test_variants_are_even_and_as_likely(pictures: tuple[Picture, ...]) -> None:
    views = augmentation(pictures, variants=8, **BOTH).views(range(4000), [3] * 4000, SQUARE)
    counts = {view: views.count(view) for view in set(views)}
    assert len(counts) == 16  # 8, and mirrored
    assert all(180 < number < 320 for number in counts.values())
    kinds = {(view.at, view.colors) for view in views}
    assert len(kinds) == 8  # whether it is mirrored is drawn apart
    values = np.array([[*at, *vars(colors).values()] for at, colors in kinds if at and colors])
    strengths = np.array([1, 1, 0.48, 0.48, 0.48, 0.12])  # the width of what may be drawn
    for column, width in zip(values.T, strengths, strict=True):
        assert np.diff(np.sort(column)) == pytest.approx([width / 8] * 7)  # equally far apart


def test_variants_belong_to_the_picture_not_to_the_seed(pictures: tuple[Picture, ...], mycat: Path) -> None:
    def spots(own: Augmentation, picture: int) -> set[Any]:
        return {(view.at, view.colors) for view in own.every([(picture, SQUARE)])}

    own = augmentation(pictures, **BOTH)
    assert spots(own, 0) == spots(augmentation(pictures, seed=8, **BOTH), 0)
    assert not spots(own, 0) & spots(own, 1)
    (mycat / "0.png").rename(mycat / "9.png")
    again = augmentation(scan_folder(mycat).pictures, **BOTH)
    assert spots(again, 4) == spots(own, 0)
    painted(48, 32, 77).save(mycat / "9.png")
    assert not spots(augmentation(scan_folder(mycat).pictures, **BOTH), 4) & spots(own, 0)


def test_every_view_is_listed_once(pictures: tuple[Picture, ...]) -> None:
    """48x32 may be cut at 17 places, 32x48 too, 40x40 at one, 64x33 (then 62x32) and 33x64 at 31."""
    views = augmentation(pictures, crop="random").every(ITEMS)
    numbers = [sum(view.picture == index for view in views) for index in range(5)]
    assert numbers == [8, 8, 1, 8, 8]
    assert [view.at for view in views if view.picture == 2] == [None]
    many = augmentation(pictures, crop="random", variants=1000, flip=True).every(ITEMS)
    assert [sum(view.picture == index for view in many) for index in range(5)] == [34, 34, 2, 62, 62]
    assert len({(view.picture, view.of(pictures)) for view in many}) == len(many)
    jittered = augmentation(pictures, color_jitter=0.1).every(ITEMS)
    assert len(set(jittered)) == len(jittered) == 40 and {view.at for view in jittered} == {None}
    assert augmentation(pictures).every(ITEMS) == [View(*item) for item in ITEMS]


def test_what_lies_beside_pictures_has_no_colors(pictures: tuple[Picture, ...]) -> None:
    own = augmentation(pictures, variants=50, **BOTH)
    assert len(own.every(ITEMS)) == 5 * 50 * 2
    places = own.places(ITEMS)
    assert {view.colors for view in places} == {None}
    assert {(v.picture, v.of(pictures)) for v in places} == {
        (v.picture, v.of(pictures)) for v in own.every(ITEMS)
    }
    assert len(places) == len({(view.picture, view.of(pictures)) for view in places}) < 250
    # Without a cache, places are known beforehand only where they are not drawn.
    assert augmentation(pictures, cache=False, **BOTH).places(ITEMS) == []
    live = augmentation(pictures, cache=False, color_jitter=0.3).places(ITEMS)
    assert live == [View(*item) for item in ITEMS]


def test_examples_are_of_both_sides_and_differ(pictures: tuple[Picture, ...]) -> None:
    views = augmentation(pictures, **BOTH).examples(0, SQUARE, 4)
    assert [view.mirrored for view in views] == [False, False, True, True]
    assert len({(view.at, view.colors) for view in views}) == 4
    assert augmentation(pictures).examples(1, SQUARE, 4) == [View(1, SQUARE)]
    assert augmentation(pictures, flip=True).examples(1, SQUARE, 4) == [
        View(1, SQUARE),
        View(1, SQUARE, True),
    ]


def test_the_summary_says_what_varies(pictures: tuple[Picture, ...]) -> None:
    assert augmentation(pictures, flip=True).notes(ITEMS) == []
    assert augmentation(pictures, variants=4, **BOTH).notes(ITEMS) == [
        "cropped at random, colors jittered by 0.3; 40 views are encoded (data.variants=4)"
    ]
    (line,) = augmentation(pictures, color_jitter=0.1, cache=False).notes(ITEMS)
    assert line == "colors jittered by 0.1; each sample is encoded anew"
    _, useless = augmentation(pictures, crop="random").notes(ITEMS[2:3])
    assert useless.startswith("data.crop=random changes nothing")


def test_mirrored_and_jittered_is_the_formula(pictures: tuple[Picture, ...]) -> None:
    colors = Colors(1.1, 0.9, 1.2, 0.03)
    with Image.open(pictures[0].origin) as image:  # 48x32
        left = math.floor(0.9 * 17)
        cut = image.crop((left, 0, left + 32, 32))
    expected = torch.from_numpy(np.asarray(colors.of(cut)).copy()).permute(2, 0, 1)
    plain, mirrored = (View(0, SQUARE, side, (0.4, 0.9), colors).levels(pictures) for side in (False, True))
    assert torch.equal(plain, expected)
    for column in range(32):
        assert torch.equal(mirrored[..., column], expected[..., 31 - column])
    assert not torch.equal(plain, View(0, SQUARE, False, (0.4, 0.9)).levels(pictures))


@pytest.mark.parametrize("kind", ["memory", "disk"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_after_preparation_three_epochs_encode_nothing(
    mycat: Path, backbone: Backbone, tmp_path: Path, kind: str
) -> None:
    place = {"cache_dir": tmp_path / "cache"} if kind == "disk" else {}
    data = DataSection(buckets=False, caption_dropout=0.5, variants=3, **BOTH, **place)
    made = PictureSource(scan_folder(mycat), backbone, data, 7)
    heard: list[tuple[int, int]] = []
    made.prepare(lambda *at: heard.append(at))
    # 5 pictures, 3 variants and their mirror images; 3 captions and the empty one.
    assert heard[-1] == (34, 34) and made.to_encode == 34
    again = PictureSource(scan_folder(mycat), backbone, data, 8)
    again.prepare()
    if kind == "disk":
        assert len(entries(tmp_path / "cache" / "latents")) == 30
        assert again.found() == ["latents: 30 of 30 from the cache", "captions: 4 of 4 from the cache"]
    for picture in made.folder.pictures:
        picture.origin.unlink()
    backbone.encode_pixels = None  # type: ignore[method-assign,assignment]
    backbone.encode_text = None  # type: ignore[method-assign,assignment]
    batch = only(made.batches(range(15)))
    assert_same(joined([only(made.batches([number])) for number in range(15)]), batch)
    assert not torch.equal(only(again.batches(range(15))).latents, batch.latents)


@pytest.mark.parametrize("family", ["sdxl"])
def test_latents_and_time_ids_are_those_of_the_variant(mycat: Path, backbone: Backbone) -> None:
    data = DataSection(buckets=False, **BOTH)
    made = PictureSource(scan_folder(mycat), backbone, data, 7)
    made.prepare()
    batch = only(made.batches(range(20)))
    assert batch.conditioning.time_ids is not None
    ids = batch.conditioning.time_ids.int().tolist()
    corners = set()
    for row, (name, told) in enumerate(zip(batch.names, ids, strict=True)):
        index = int(Path(name).stem)
        (view,) = made.augmentation.views([row], [index], SQUARE)
        assert view.colors is not None
        with Image.open(name) as image:
            width, height = image.size
            scale = 32 / min(width, height)
            wide, high = round(width * scale), round(height * scale)
            resized = image.resize((wide, high), Image.Resampling.LANCZOS)
        top, left = (
            int(f * (room + 1)) for f, room in zip(view.at or (0, 0), (high - 32, wide - 32), strict=True)
        )
        pixels = np.asarray(view.colors.of(resized.crop((left, top, left + 32, top + 32))))
        pixels = pixels[:, ::-1] if view.mirrored else pixels
        corner = (top, wide - 32 - left if view.mirrored else left)
        assert told == [height, width, *corner, 32, 32]
        corners.add((index, *corner))
        mean, std = backbone.encode_pixels(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1)
        drawn = (batch.latents[row] - mean[0]) / std[0]  # standard normal, if the latents are of these pixels
        assert float(drawn.square().mean()) < 2
    assert len(corners) > 10


@pytest.mark.parametrize("family", ["sd1"])
def test_colors_are_part_of_the_key_of_latents_and_of_nothing_else(
    mycat: Path, backbone: Backbone, tmp_path: Path
) -> None:
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in mycat.glob("*.png"):
        with Image.open(path) as image:
            Image.new("L", image.size, 255).save(masks / path.name)
    numbers = []
    for changes in ({}, {"color_jitter": 0.1}, {"color_jitter": 0.2}, {"color_jitter": 0.2, "variants": 4}):
        settings: dict[str, Any] = {"data_dir": mycat, "preprocess": "edges", "mask_dir": masks, **changes}
        section = PairsSection(cache_dir=tmp_path / "cache", resolution=32, buckets=False, **settings)
        source = PairSource(scan_pairs(section), backbone, section, 7)
        source.prepare()
        kinds = ("latents", "controls", "masks")
        numbers.append([len(entries(tmp_path / "cache" / kind)) for kind in kinds])
        batch = only(source.batches(range(5)))
        if not changes:
            plain = batch
        order = [batch.names.index(name) for name in plain.names]
        assert batch.conditioning.control is not None and plain.conditioning.control is not None
        # Control pictures are made of pictures whose colors are not jittered.
        assert torch.equal(batch.conditioning.control[order], plain.conditioning.control)
    # Four variants are the first four of eight.
    assert numbers == [[5, 5, 5], [45, 5, 5], [85, 5, 5], [85, 5, 5]]


def test_pictures_of_the_class_keep_their_colors() -> None:
    data = DataSection(**BOTH)
    assert data.of_class() == DataSection(**{**BOTH, "color_jitter": 0.0})
    assert data.varied and not DataSection(flip=True).varied and DataSection(color_jitter=0.01).varied
