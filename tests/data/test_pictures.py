"""Latents of picture files, prepared."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from finetune.data import View, scan_folder
from finetune.data.cache import ContentCache
from finetune.data.pictures import PictureLatents

if TYPE_CHECKING:
    from finetune.backbones import Backbone


@pytest.mark.parametrize("flip", [False, True])
def test_preparation_tells_how_far_it_is_and_spares_the_files(
    mycat: Path, loaded: dict[str, Backbone], flip: bool
) -> None:
    pictures, heard = scan_folder(mycat).pictures, list[tuple[int, int]]()
    views = [
        View(index, mirrored) for index in range(5) for mirrored in ((False, True) if flip else (False,))
    ]
    expected = PictureLatents(pictures, loaded["sd1"], 32).posterior(views)
    latents = PictureLatents(pictures, loaded["sd1"], 32, ContentCache())
    latents.prepare(flip, lambda done, of: heard.append((done, of)))
    assert heard == [(len(views), len(views))]
    for picture in pictures:
        picture.path.unlink()
    prepared = latents.posterior(views)
    assert torch.equal(prepared.mean, expected.mean) and torch.equal(prepared.std, expected.std)
