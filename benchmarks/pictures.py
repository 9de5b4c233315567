"""Pictures to train on, drawn by the program that draws the bundled model's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from finetune.files import whole_folder
from storybook.drawing import draw
from storybook.world import sample_spec


def draw_pictures(folder: Path, size: int, count: int, caption: str = "") -> Path:
    """Writes `0.png`, `1.png`, … into a new folder, which is returned.

    Args:
        folder: Where.
        size: Their side in pixels.
        count: How many.
        caption: Goes beside each; none if empty.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as aside:
        for number in range(count):
            scene(number, size).save(aside / f"{number}.png")
            if caption:
                (aside / f"{number}.txt").write_text(caption, encoding="utf-8")
    return folder


def draw_pairs(folder: Path, size: int, count: int, caption: str) -> Path:
    """Writes pictures and their edges into a new folder, which is returned.

    `metadata.jsonl` names both in the way that `finetune controlnet` and the `datasets` library read.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with whole_folder(folder) as aside:
        lines = []
        for number in range(count):
            picture, names = scene(number, size), (f"{number}.png", f"{number}-edges.png")
            picture.save(aside / names[0])
            picture.convert("L").filter(ImageFilter.FIND_EDGES).convert("RGB").save(aside / names[1])
            lines.append({"file_name": names[0], "conditioning_image_file_name": names[1], "text": caption})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (aside / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder


def scene(number: int, size: int) -> Image.Image:
    """A drawn picture of this side in pixels; each number has its own."""
    rng = np.random.default_rng(number)
    return draw(sample_spec(rng), rng, size)
