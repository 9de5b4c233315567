"""Aspect-ratio buckets: the table, each picture's place in it, and the order of an epoch."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from finetune.config import DataSection, PairsSection
from finetune.data import PairSource, PictureSource, PriorSource, scan_folder, scan_pairs
from finetune.data.buckets import Order, bucket_table, grouped, nearest
from finetune.data.cache import content_key
from finetune.data.notes import shapes_note
from finetune.data.preprocess import place
from finetune.diffusion.batch import Batch
from finetune.diffusion.random import picture_index
from finetune.errors import ConfigError
from tests.data.conftest import painted
from tests.data.entries import entries

if TYPE_CHECKING:
    from finetune.backbones import Backbone

quick = settings(max_examples=60, deadline=None, derandomize=True)
SIDES = st.integers(1, 4000)
TABLES = st.builds(
    bucket_table,
    st.integers(4, 128).map(lambda n: 8 * n),
    st.integers(1, 16).map(lambda n: 8 * n),
    st.floats(1.01, 8),
)
FIVE = [(80, 32), (48, 32), (32, 32), (32, 48), (32, 80)]  # width and height


@quick
@given(st.integers(4, 64), st.integers(1, 8), st.fractions(Fraction(11, 10), 8))
def test_the_table_is_all_sizes_that_could_not_be_larger(sides: int, step: int, ratio: Fraction) -> None:
    resolution, step = 8 * sides, 8 * step
    most = range(step, 9 * resolution, step)
    expected = {
        (height, width)
        for height in most
        for width in most[: resolution**2 // height // step]
        if height != width
        and max(height, width) <= ratio * min(height, width)
        and (height * (width + step) > resolution**2 or (height + step) * width > resolution**2)
    }
    table = bucket_table(resolution, step, float(ratio))
    assert len(table) == len(set(table))
    assert set(table) == expected | {(resolution, resolution)}
    assert {(width, height) for height, width in table} == set(table)


def test_some_well_known_sizes() -> None:
    sdxl = bucket_table(1024, 64, 3)  # of appendix I of arXiv:2307.01952
    assert {(1024, 1024), (832, 1216), (768, 1344), (896, 1152), (640, 1536), (1536, 640)} <= set(sdxl)
    assert max(h * w for h, w in sdxl) == 1024**2 and min(h * w for h, w in sdxl) > 0.87 * 1024**2


@quick
@given(TABLES, st.tuples(SIDES, SIDES))
def test_a_picture_goes_where_it_loses_least(table: list[tuple[int, int]], size: tuple[int, int]) -> None:
    def kept(bucket: tuple[int, int]) -> Fraction:
        """The share of the picture inside the largest rectangle of the bucket's shape."""
        ratio = Fraction(size[0], size[1]) / Fraction(bucket[0], bucket[1])
        return min(ratio, 1 / ratio)

    (chosen,) = nearest([size], table)
    assert float(kept(chosen)) == pytest.approx(float(max(map(kept, table))))


@quick
@given(TABLES, st.tuples(st.integers(16, 4000), st.integers(16, 4000)), st.data())
def test_it_is_cropped_no_more_than_its_bucket_needs(
    table: list[tuple[int, int]], size: tuple[int, int], data: st.DataObject
) -> None:
    bucket = data.draw(st.sampled_from(table))
    placement = place(size, bucket)
    room = [r - b for r, b in zip(placement.resized, bucket, strict=True)]
    assert min(room) == 0 and placement.cut == (room[0] // 2, room[1] // 2)
    ratio = size[0] * bucket[1] / (size[1] * bucket[0])
    pixel = 1 / min(bucket)  # of rounding
    assert placement.lost == pytest.approx(1 - min(ratio, 1 / ratio), abs=pixel)
    assert placement.enlarged == (max(b / s for b, s in zip(bucket, size, strict=True)) > 1)


def walked(shapes: list[int], group: int) -> list[int]:
    """The order in plain words: walk, collect by shape, put down a group when it is complete."""
    order: list[int] = []
    waiting: dict[int, list[int]] = {}
    for position, shape in enumerate(shapes):
        waiting.setdefault(shape, []).append(position)
        if len(waiting[shape]) == group:
            order += waiting.pop(shape)
    return order + [position for shape in sorted(waiting) for position in waiting[shape]]


@quick
@given(st.lists(st.integers(0, 5), max_size=60), st.integers(1, 9))
def test_groups_are_those_of_a_walk(shapes: list[int], group: int) -> None:
    assert grouped(np.array(shapes, dtype=np.int64), group).tolist() == walked(shapes, group)


@st.composite
def orders(draw: st.DrawFn) -> tuple[Order, list[tuple[int, int]], list[int]]:
    kinds = draw(st.integers(1, 5))
    sizes = [(8, 8 * (1 + k)) for k in draw(st.lists(st.integers(0, kinds - 1), min_size=1, max_size=30))]
    repeats = draw(st.lists(st.integers(1, 4), min_size=len(sizes), max_size=len(sizes)))
    group, seed = draw(st.integers(1, 8)), draw(st.integers(0, 3))
    return Order(sizes, repeats, group, seed), sizes, repeats


@quick
@given(orders(), st.sampled_from([1, -1]))
def test_an_epoch_shows_each_item_as_often_as_it_repeats(
    made: tuple[Order, list[tuple[int, int]], list[int]], sign: int
) -> None:
    order, sizes, repeats = made
    numbers = range(4 * len(order)) if sign > 0 else range(-1, -1 - 4 * len(order), -1)
    items = [order.item(n) for n in numbers]
    assert len(order) == sum(repeats)
    for epoch in range(4):
        shown = Counter(items[epoch * len(order) : (epoch + 1) * len(order)])
        assert [shown[item] for item in range(len(sizes))] == repeats
    # Of each epoch, only what completes no step of one shape lies in steps of several.
    steps = [items[start : start + order.group] for start in range(0, len(items), order.group)]
    mixed = sum(len({sizes[item] for item in step}) > 1 for step in steps)
    assert mixed <= 4 * (len(set(sizes)) + 1)


@quick
@given(orders(), st.integers(-200, 200))
def test_one_shape_or_one_sample_a_step_gives_the_order_that_always_was(
    made: tuple[Order, list[tuple[int, int]], list[int]], number: int
) -> None:
    order, sizes, _ = made
    count = len(sizes)
    alike = Order([(8, 8)] * count, [1] * count, order.group, order.seed)
    alone = Order(sizes, [1] * count, 1, order.seed)
    assert alike.item(number) == alone.item(number) == picture_index(order.seed, number, count)


def test_steps_of_later_epochs_see_one_shape_too() -> None:
    sizes = [(8, 8)] * 41 + [(8, 16)] * 60  # 101: every epoch begins within a step
    order = Order(sizes, [1] * 101, 4, 0)
    items = [order.item(n) for n in range(101 * 8)]
    steps = [{sizes[item] for item in items[start : start + 4]} for start in range(0, len(items), 4)]
    assert sum(len(step) > 1 for step in steps) <= 2 * 8
    assert len({tuple(items[101 * epoch : 101 * epoch + 101]) for epoch in range(8)}) == 8


@pytest.fixture
def five(tmp_path: Path) -> Path:
    """A folder of five pictures of five shapes."""
    folder = tmp_path / "five"
    folder.mkdir()
    for index, (width, height) in enumerate(FIVE):
        painted(width, height, index).save(folder / f"{index}.png")
    return folder


def source(five: Path, backbone: Backbone, group: int = 4, **data: Any) -> PictureSource:
    made = PictureSource(scan_folder(five), backbone, DataSection(**data), 7, group=group)
    made.prepare()
    return made


def rows(batches: list[Batch]) -> dict[int, tuple[str, torch.Tensor]]:
    return {
        number: (name, latents)
        for batch in batches
        for number, name, latents in zip(batch.numbers, batch.names, batch.latents, strict=True)
    }


@pytest.mark.parametrize("family", ["sd1"])
@pytest.mark.parametrize("cache", [True, False])
def test_samples_of_one_shape_are_one_batch(five: Path, backbone: Backbone, cache: bool) -> None:
    made = source(five, backbone, cache=cache)
    batches = made.batches(range(10))
    assert sorted(n for batch in batches for n in batch.numbers) == list(range(10))
    shapes = [tuple(batch.latents.shape[2:]) for batch in batches]
    assert set(shapes) == {(4, 12), (6, 10), (8, 8), (10, 6), (12, 4)} and len(shapes) == 5
    for batch in batches:
        assert len({Path(name).name for name in batch.names}) == 1 and len(batch) == 2
    whole = rows(batches)
    for number in range(10):
        ((name, latents),) = rows(made.batches([number])).values()
        assert name == whole[number][0]
        torch.testing.assert_close(latents, whole[number][1], rtol=0, atol=0 if cache else 1e-5)


@pytest.mark.parametrize("family", ["sdxl"])
def test_sdxl_is_told_size_corner_and_shape(five: Path, backbone: Backbone) -> None:
    told = {
        (int(Path(name).stem), *ids)
        for batch in source(five, backbone).batches(range(5))
        for name, ids in zip(batch.names, _ids(batch), strict=True)
    }
    # Height, width, top, left, trained height and width: 80x32 is resized to 48x19, 48x32 to 40x27.
    assert told == {
        (0, 32, 80, 1, 0, 16, 48),
        (1, 32, 48, 1, 0, 24, 40),
        (2, 32, 32, 0, 0, 32, 32),
        (3, 48, 32, 0, 1, 40, 24),
        (4, 80, 32, 0, 1, 48, 16),
    }


def _ids(batch: Batch) -> list[list[int]]:
    assert batch.conditioning.time_ids is not None
    return [list(map(int, row)) for row in batch.conditioning.time_ids.tolist()]


@pytest.mark.parametrize("family", ["sd1"])
@pytest.mark.parametrize("data", [{}, {"crop": "random", "cache": False}, {"crop": "random"}])
def test_masks_and_control_pictures_lie_on_their_pictures(
    five: Path, tmp_path: Path, backbone: Backbone, data: dict[str, Any]
) -> None:
    """Pictures, masks and control pictures are the same gray levels, so all three must be equal."""
    masks = tmp_path / "masks"
    masks.mkdir()
    for file in five.iterdir():
        gray = Image.open(file).convert("L")
        gray.convert("RGB").save(file)
        gray.save(masks / file.name)
    section = PairsSection(
        data_dir=five, conditioning_dir=five, resolution=32, mask_dir=masks, flip=True, **data
    )
    made = PairSource(scan_pairs(section), backbone, section, 7, 4)
    made.prepare()
    for batch in made.batches(range(20)):
        assert batch.conditioning.control is not None and batch.mask is not None
        height, width = batch.conditioning.control.shape[2:]
        corners = _corners(made, batch)
        for row, name in enumerate(batch.names):
            cut = _cut_with_pillow(Image.open(name), (width, height), corners[row])
            control = batch.conditioning.control[row]
            assert min(float((control - side).abs().max()) for side in (cut, cut.flip(-1))) < 1.5 / 255
            torch.testing.assert_close(batch.mask[row], F.avg_pool2d(control[:1], 4), rtol=0, atol=1e-6)
            own = control[None] * 2 - 1
            mean, std = (t[0] for t in backbone.encode_pixels(own))
            drawn = (batch.latents[row] - mean) / std  # standard normal, if the latents are of these pixels
            assert float(drawn.square().mean()) < 2
    assert all(control.shape == (3, 32, 32) for _, control in made.shown(5))  # previews stay square


def _corners(made: PictureSource, batch: Batch) -> list[tuple[float, float] | None]:
    pictures = [int(Path(name).stem) for name in batch.names]
    return [view.at for view in made.augmentation.views(batch.numbers, pictures, (32, 32))]


def _cut_with_pillow(
    image: Image.Image, size: tuple[int, int], at: tuple[float, float] | None
) -> torch.Tensor:
    """Covers `size` with the picture and cuts, by Pillow alone."""
    scale = max(size[0] / image.width, size[1] / image.height)
    image = image.convert("RGB").resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )
    down, right = image.height - size[1], image.width - size[0]
    top, left = (down // 2, right // 2) if at is None else (int(at[0] * (down + 1)), int(at[1] * (right + 1)))
    image = image.crop((left, top, left + size[0], top + size[1]))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


@pytest.mark.parametrize("family", ["sd1"])
def test_class_pictures_join_the_rows_of_their_shape(five: Path, tmp_path: Path, backbone: Backbone) -> None:
    classes = tmp_path / "classes"
    classes.mkdir()
    for index, size in enumerate([(32, 32), (40, 24), (33, 20)]):
        painted(*size, 9 + index).save(classes / f"{index}.png")
    prior = PriorSource(source(five, backbone), source(classes, backbone), 0.25)
    batches = prior.batches(range(10))
    shapes = [tuple(batch.latents.shape[2:]) for batch in batches]
    assert len(set(shapes)) == len(shapes) == 5
    assert sorted(n for b in batches for n in b.numbers) == list(range(-10, 10))
    for batch in batches:
        assert batch.weight.tolist() == [0.25 if n < 0 else 1 for n in batch.numbers]
    both = {shape: {n < 0 for n in b.numbers} for shape, b in zip(shapes, batches, strict=True)}
    assert both[8, 8] == both[6, 10] == {True, False} and both[4, 12] == {False}


@pytest.mark.parametrize("family", ["sd1"])
def test_latents_of_squares_keep_their_keys(mycat: Path, backbone: Backbone, tmp_path: Path) -> None:
    def keys() -> set[str]:
        return {key.hex() for key in entries(tmp_path / "cache/latents")}

    source(mycat, backbone, buckets=False, cache_dir=tmp_path / "cache")
    vae, pictures = backbone.fingerprint_vae(), scan_folder(mycat).pictures
    cuts = ["(0, 8)", "(8, 0)", "(0, 0)", "(0, 15)", "(15, 0)"]
    squares = [
        content_key("latents", picture.digest, f"lanczos-2 32 {cut} False", vae)
        for picture, cut in zip(pictures, cuts, strict=True)
    ]
    assert keys() == set(squares)
    source(mycat, backbone, cache_dir=tmp_path / "cache")  # all but the square picture are in other shapes
    assert len(keys()) == 5 + 4
    source(mycat, backbone, cache_dir=tmp_path / "cache", extra_resolutions=[40])
    assert len(keys()) == 5 + 4 + 5


@pytest.mark.parametrize("family", ["sd1"])
def test_each_picture_is_shown_at_every_resolution(five: Path, backbone: Backbone) -> None:
    made = source(five, backbone, extra_resolutions=[64], group=2)
    assert len(made) == 10
    shown = [
        (Path(name).name, batch.latents.shape[2] * batch.latents.shape[3])
        for batch in made.batches(range(10))
        for name in batch.names
    ]
    assert len(set(shown)) == 10
    assert sorted(area > 64 for _, area in shown) == [False] * 5 + [True] * 5


@pytest.mark.parametrize("family", ["sd1"])
def test_repeats_are_part_of_the_epoch_and_of_the_digest(five: Path, backbone: Backbone) -> None:
    folder = scan_folder(five)
    thrice = replace(folder, pictures=(replace(folder.pictures[0], repeats=3), *folder.pictures[1:]))
    plain, made = (PictureSource(f, backbone, DataSection(), 7) for f in (folder, thrice))
    assert (len(plain), len(made)) == (5, 7)
    names = Counter(Path(n).name for batch in made.batches(range(7)) for n in batch.names)
    assert names == {"0.png": 3, "1.png": 1, "2.png": 1, "3.png": 1, "4.png": 1}
    assert made.to_encode == plain.to_encode
    assert made.digest() != plain.digest()


@pytest.mark.parametrize("family", ["sd1"])
def test_the_summary_tells_shapes_enlarged_and_cropped_pictures(five: Path, backbone: Backbone) -> None:
    lines = source(five, backbone).summary()
    assert lines[0].startswith(f"5 pictures from {five}, in 5 shapes: ") and "48x16 (1)" in lines[0]
    assert lines[1] == "cropped by more than 10%: 4.png (16%), 0.png (16%), 3.png (11%), 1.png (11%)"
    fewer = source(five, backbone, crop_warning=0.15).summary()
    assert fewer[1] == "cropped by more than 15%: 4.png (16%), 0.png (16%)"
    large = source(five, backbone, resolution=64).summary()
    assert any(
        line.startswith("enlarged, because smaller than they are trained at: 0.png (80x32 to 96x32)")
        for line in large
    )


def test_shapes_come_by_their_number() -> None:
    sizes = [(384, 640)] * 2 + [(512, 512)] * 4 + [(640, 384)]
    assert shapes_note(sizes) == "in 3 shapes: 512x512 (4), 640x384 (2), 384x640 (1)"
    assert shapes_note(sizes[2:6]) == "at 512x512 pixels"


@pytest.mark.parametrize("family", ["sd1"])
@pytest.mark.parametrize(
    ("data", "where", "fix"),
    [
        ({"bucket_step": 8}, "data.bucket_step", "Use 16."),
        ({"extra_resolutions": [40]}, "data.extra_resolutions", "Use 32."),
        ({"resolution": 40}, "data.resolution", "Use 32."),
    ],
)
def test_what_does_not_fit_the_vae_is_refused(
    five: Path,
    backbone: Backbone,
    data: dict[str, Any],
    where: str,
    fix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(type(backbone), "latent_factor", 16)
    with pytest.raises(ConfigError) as error:
        PictureSource(scan_folder(five), backbone, DataSection(**data), 0)
    assert error.value.where == where and error.value.fix == fix


def test_settings_of_buckets_need_them() -> None:
    found = [f.where for f in DataSection(buckets=False, bucket_step=64, bucket_ratio=2).faults()]
    assert found == ["data.bucket_step", "data.bucket_ratio"]
    assert not list(DataSection(bucket_step=64, bucket_ratio=2).faults())
