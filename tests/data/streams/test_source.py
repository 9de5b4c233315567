"""Batches from a stream: what each sample shows, and that only its number decides it (P1)."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

from finetune.config import DataSection, PairsSection
from finetune.data import PairSource, PictureSource, scan_folder, scan_pairs
from finetune.data.colors import Colors
from finetune.data.folder import Folder
from finetune.data.pairs import PairedFolder
from finetune.data.preprocess import cut_out, place
from finetune.data.read import Reader
from finetune.data.streams.source import StreamSource
from finetune.diffusion.batch import Batch
from finetune.diffusion.random import normal, uniform
from tests.data.streams.shards import held, members, write_shard, write_shards
from tests.data.test_source import assert_same, joined

if TYPE_CHECKING:
    from finetune.backbones import Backbone

COUNT, GROUP = 11, 4
pytestmark = pytest.mark.parametrize("family", ["sd1"])


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", COUNT)


def source(
    shards: Path, backbone: Backbone, size: int = 5, file: str = "stream.jsonl", **data: Any
) -> StreamSource:
    settings = DataSection(cache=False, **data)

    def make(folder: Folder) -> PictureSource:
        return PictureSource(folder, backbone, settings, 7, group=GROUP)

    first = make(scan_folder(shards, None, settings))
    return StreamSource(first, make, size, Reader.of(settings), shards.parent / file)


def shown(batches: list[Batch]) -> dict[int, str]:
    """The picture of each sample number."""
    return {n: name for batch in batches for n, name in zip(batch.numbers, batch.names, strict=True)}


def rows(batches: list[Batch]) -> dict[int, torch.Tensor]:
    return {n: row for batch in batches for n, row in zip(batch.numbers, batch.latents, strict=True)}


def test_a_row_is_what_diffusers_makes_of_the_member(shards: Path, backbone: Backbone) -> None:
    made, inside = source(shards, backbone, buckets=False), held(shards)
    for number in (0, 4, 5, 13, 30):
        (batch,) = made.batches([number])
        data = inside[batch.names[0]]
        (shards.parent / "one.png").write_bytes(data)
        with Image.open(shards.parent / "one.png") as image:
            pixels = cut_out(image, place((image.height, image.width), (32, 32)))
        text = inside[batch.names[0].replace(".png", ".txt")].decode().strip()
        with torch.no_grad():
            posterior = backbone.vae.encode(pixels[None]).latent_dist
            hidden, _ = backbone.encode_text(backbone.tokenize([text]))
        noise = normal(7, [number], "latents", posterior.mean.shape[1:])
        expected = (posterior.mean + posterior.std * noise) * backbone.vae.config.scaling_factor
        torch.testing.assert_close(batch.latents, expected)
        torch.testing.assert_close(batch.conditioning.hidden, hidden)


def test_every_sample_has_a_crop_and_colors_of_its_own(shards: Path, backbone: Backbone) -> None:
    augmented: dict[str, Any] = {"buckets": False, "crop": "random", "color_jitter": 0.3}
    made, inside = source(shards, backbone, **augmented), held(shards)
    seen: dict[str, set[tuple[float, ...]]] = {}
    for number in range(3 * COUNT):
        (batch,) = made.batches([number])
        names = ("crop top", "crop left", "brightness", "contrast", "saturation", "hue")
        top, left, *strengths, hue = (float(uniform(7, [number], name)) for name in names)
        colors = Colors(*(1 + 0.3 * 0.8 * (2 * draw - 1) for draw in strengths), 0.3 * 0.2 * (2 * hue - 1))
        with Image.open(io.BytesIO(inside[batch.names[0]])) as image:
            scale = 32 / min(image.size)
            wide, high = (round(side * scale) for side in image.size)
            resized = image.convert("RGB").resize((wide, high), Image.Resampling.LANCZOS)
        y, x = int(top * (high - 32 + 1)), int(left * (wide - 32 + 1))
        pixels = np.asarray(colors.of(resized.crop((x, y, x + 32, y + 32))))
        with torch.no_grad():
            made_of = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 127.5 - 1
            posterior = backbone.vae.encode(made_of).latent_dist
        noise = normal(7, [number], "latents", posterior.mean.shape[1:])
        expected = (posterior.mean + posterior.std * noise) * backbone.vae.config.scaling_factor
        torch.testing.assert_close(batch.latents, expected)
        seen.setdefault(batch.names[0], set()).add(tuple(pixels.mean(axis=(0, 1))))
    assert all(len(looks) == 3 for looks in seen.values()), "another one in each epoch"
    splits = source(shards, backbone, file="other.jsonl", **augmented)
    together = rows(splits.batches(range(20, 30)))
    for number in reversed(range(20, 30)):
        torch.testing.assert_close(made.batches([number])[0].latents[0], together[number])


@pytest.mark.parametrize("size", [1, 3, 5, 11, 100])
def test_each_picture_once_an_epoch(shards: Path, backbone: Backbone, size: int) -> None:
    found = shown(source(shards, backbone, size).batches(range(3 * COUNT)))
    whole = {f"0{n // 4}.tar/{n:03}.png" for n in range(COUNT)}
    epochs = [[found[n] for n in range(e * COUNT, (e + 1) * COUNT)] for e in range(3)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(whole)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_one_shard_has_another_order_each_epoch(tmp_path: Path, backbone: Backbone) -> None:
    samples = [members(4 * n) for n in range(8)]
    made = source(write_shard(tmp_path / "s" / "0.tar", samples).parent, backbone, 100, buckets=False)
    found = shown(made.batches(range(24)))
    assert len({tuple(found[n] for n in range(start, start + 8)) for start in (0, 8, 16)}) == 3


def test_a_step_sees_one_shape_where_it_can(tmp_path: Path, backbone: Backbone) -> None:
    # 18 pictures in two shapes, 9 each: 4 of an epoch's steps can be pure, or 3 if the first two samples,
    # which complete the step that the epoch before began, are of different shapes.
    samples = [members(4 * (n // 2) + n % 2) for n in range(18)]
    made = source(write_shard(tmp_path / "s" / "0.tar", samples).parent, backbone, 100)
    steps = [made.batches(range(start, start + GROUP)) for start in range(0, 36, GROUP)]
    assert sum(len(batches) == 1 for batches in steps) >= 4 + 3
    assert len({batch.latents.shape[1:] for batches in steps for batch in batches}) == 2


def test_splits_and_jumps_change_nothing(shards: Path, backbone: Backbone) -> None:
    together = rows(source(shards, backbone, flip=True).batches(range(40)))
    alone = source(shards, backbone, file="other.jsonl", flip=True)
    single = {n: row for n in range(40) for row in alone.batches([n])[0].latents}
    backwards = source(shards, backbone, file="third.jsonl", flip=True)
    back = {n: row for n in reversed(range(40)) for row in backwards.batches([n])[0].latents}
    half = source(shards, backbone, file="fourth.jsonl", flip=True)  # the second of two processes
    halves = {n: r for s in range(0, 40, 4) for n, r in rows(half.batches(range(s + 2, s + 4))).items()}
    for found in (single, back, halves):
        for number, row in found.items():
            torch.testing.assert_close(row, together[number])
    assert len(halves) == 20


def test_a_new_source_jumps_to_the_block_it_knows(
    shards: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = source(shards, backbone, 3)
    expected = [first.batches([number])[0] for number in range(30)]
    lines = [json.loads(line) for line in (shards.parent / "stream.jsonl").read_text().splitlines()]
    assert [line["start"] for line in lines] == [0, 3, 6, 9, 11, 14, 17, 20, 22, 25, 28]
    read: list[str] = []
    plain = Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda self, origin: (read.append(str(origin)), plain(self, origin))[1]
    )
    known = source(shards, backbone, 3)
    read.clear()
    assert_same(known.batches([29])[0], expected[29])
    assert len(read) <= 6, "the block and what comes after it, not the nine before"
    unknown = source(shards, backbone, 3, "other.jsonl")
    read.clear()
    assert_same(unknown.batches([29])[0], expected[29])
    assert len(read) >= 29


def test_the_next_block_is_read_at_the_pace_of_this_one(
    shards: Path, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = source(shards, backbone, 5)
    read: list[str] = []
    plain = Reader.read
    monkeypatch.setattr(
        Reader, "read", lambda self, origin: (read.append(str(origin)), plain(self, origin))[1]
    )
    counts = []
    for numbers in (range(2), range(2, 4), range(4, 7), range(7, 10)):
        made.batches(numbers)
        counts.append(len(read))
    # Five at once, then as many as were shown; the third block is the epoch's last picture alone.
    assert counts == [5 + 2, 5 + 4, 10 + 1, 10 + 1]


@pytest.mark.parametrize("damage", ["half", "other settings", "rubbish"])
def test_a_damaged_file_is_made_again(shards: Path, backbone: Backbone, damage: str) -> None:
    file = shards.parent / "stream.jsonl"
    expected = joined(source(shards, backbone, 3, buckets=False).batches(range(20)))
    whole = file.read_text()
    if damage == "half":
        file.write_text(whole[: len(whole) * 2 // 3])
    elif damage == "rubbish":
        file.write_text("{}\n\x00\n[1]\n" + whole.replace('"row": ', '"raw": '))
    else:
        file.unlink()
        source(shards, backbone, 4).batches(range(20))
    assert_same(joined(source(shards, backbone, 3, buckets=False).batches(range(20))), expected)
    assert file.read_text() == whole


def test_what_was_met_is_told(tmp_path: Path, backbone: Backbone) -> None:
    bare = {name: data for name, data in members(2).items() if not name.endswith(".txt")}
    write_shard(tmp_path / "s" / "0.tar", [members(0), {**members(1), "001.png": b"?"}, bare])
    made = source(tmp_path / "s", backbone, 2, buckets=False)
    assert set(shown(made.batches(range(6))).values()) == {"0.tar/000.png", "0.tar/002.png"}
    skipped, without = made.met()
    assert skipped.startswith("skipped 0.tar/001.png: ")
    assert without == '3 pictures without a caption got "a photo of s"'


def test_pairs(shards: Path, backbone: Backbone) -> None:
    settings = PairsSection(data_dir=shards, cache=False, buckets=False)

    def make(folder: Folder) -> PictureSource:
        assert isinstance(folder, PairedFolder)
        return PairSource(folder, backbone, settings, 7)

    made = StreamSource(make(scan_pairs(settings)), make, 4, Reader(), shards.parent / "stream.jsonl")
    inside = held(shards)
    for number in range(15):
        (batch,) = made.batches([number])
        (shards.parent / "one.png").write_bytes(inside[batch.names[0].replace(".png", ".conditioning.png")])
        with Image.open(shards.parent / "one.png") as image:
            expected = cut_out(image, place((image.height, image.width), (32, 32))) / 2 + 0.5
        assert batch.conditioning.control is not None
        torch.testing.assert_close(batch.conditioning.control[0], expected, atol=0.003, rtol=0)
