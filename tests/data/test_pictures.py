"""Latents of picture files, prepared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from PIL import Image

from finetune.config import DataSection
from finetune.data import PictureSource, scan_folder
from finetune.data.cache import ContentCache
from finetune.data.latents import View
from finetune.data.pictures import PictureLatents
from finetune.data.read import Reader
from finetune.data.record import differences
from tests.data.conftest import squares
from tests.data.entries import entries

if TYPE_CHECKING:
    from finetune.backbones import Backbone


@pytest.mark.parametrize("flip", [False, True])
def test_preparation_tells_how_far_it_is_and_spares_the_files(
    mycat: Path, loaded: dict[str, Backbone], flip: bool
) -> None:
    pictures, heard = scan_folder(mycat).pictures, list[tuple[int, int]]()
    views = squares(5, flip)
    expected = PictureLatents(pictures, loaded["sd1"]).posterior(views)
    latents = PictureLatents(pictures, loaded["sd1"], ContentCache())
    latents.prepare(views, lambda done, of: heard.append((done, of)))
    assert heard == [(len(views), len(views))]
    for picture in pictures:
        picture.origin.unlink()
    prepared = latents.posterior(views)
    assert torch.equal(prepared.mean, expected.mean) and torch.equal(prepared.std, expected.std)


def test_another_background_makes_the_transparent_pictures_again_and_no_others(
    mycat: Path, loaded: dict[str, Backbone], tmp_path: Path
) -> None:
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(mycat / "clear.png")
    data = DataSection(resolution=32, buckets=False, cache_dir=tmp_path / "cache")
    sources = [
        PictureSource(scan_folder(mycat, "x", reader=Reader(color)), loaded["sd1"], data, seed=0)
        for color in ("white", "blue")
    ]
    counts = []
    for source in sources:
        source.prepare()
        counts.append(len(entries(tmp_path / "cache" / "latents")))
    assert counts == [6, 7]
    whites, blues = (
        source.latents.posterior([View(*item) for item in source.items]).mean for source in sources
    )
    assert [torch.equal(a, b) for a, b in zip(whites, blues, strict=True)] == [True] * 5 + [False]
    assert sources[0].digest() != sources[1].digest()
    assert differences(*(source.record() for source in sources)) == ["the background of clear.png"]
