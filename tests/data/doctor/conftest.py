"""Pictures to find something in, and clean ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from finetune.config import DataSection
from finetune.data import scan_folder
from finetune.data.doctor import DataSet, Finding, examine, look_at
from finetune.data.doctor.framing import framed
from finetune.data.read import Reader

Find = Callable[..., dict[str, Finding]]


def scene(seed: int, width: int = 96, height: int = 96) -> Image.Image:
    """Shapes with sharp edges on a smooth ground, others for each seed."""
    draws = np.random.default_rng(seed)
    ground = Image.fromarray(draws.integers(0, 256, (3, 3, 3), dtype=np.uint8))
    image = ground.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    for _ in range(30):
        left, top = int(draws.integers(0, width)), int(draws.integers(0, height))
        right, bottom = left + int(draws.integers(3, width // 4)), top + int(draws.integers(3, height // 4))
        color = tuple(int(level) for level in draws.integers(0, 256, 3))
        pen.rectangle((left, top, right, bottom), fill=color)
    return image


@pytest.fixture
def find(tmp_path: Path) -> Find:
    """Examines pictures and captions: what is found, by name. Four clean pictures are there as well."""

    def examined(
        pictures: Mapping[str, Image.Image | bytes], captions: Mapping[str, str] | None = None, **values: Any
    ) -> dict[str, Finding]:
        folder = tmp_path / "mycat"
        folder.mkdir()
        for seed in range(4):
            scene(seed).save(folder / f"clean{seed}.png")
        for name, content in pictures.items():
            if isinstance(content, bytes):
                (folder / name).write_bytes(content)
            else:
                content.save(folder / name)
        for name, caption in (captions or {}).items():
            (folder / f"{name}.txt").write_text(caption)
        section = DataSection(buckets=False, crop_warning=0.3)
        scanned = scan_folder(folder, data=section)
        looks = Reader().map(lambda picture: look_at(picture, 64), scanned.pictures)
        places = framed(scanned.pictures, section, 64, 8)
        data = DataSet(scanned, places, section.crop_warning, looks=looks, **values)
        return {one.name: one for one in examine(data)}

    return examined
