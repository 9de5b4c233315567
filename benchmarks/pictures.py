"""Pictures to train on, drawn by the program that draws the bundled model's."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import ImageFilter

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
    folder.mkdir(parents=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        draw(sample_spec(rng), rng, size).save(folder / f"{number}.png")
        if caption:
            (folder / f"{number}.txt").write_text(caption, encoding="utf-8")
    return folder


def draw_pairs(folder: Path, size: int, count: int, caption: str) -> Path:
    """Writes pictures and their edges into a new folder, which is returned.

    `metadata.jsonl` names both as the `datasets` library's image folders do, and `finetune controlnet`, too.
    """
    folder.mkdir(parents=True)
    lines = []
    for number in range(count):
        rng = np.random.default_rng(number)
        picture, names = draw(sample_spec(rng), rng, size), (f"{number}.png", f"{number}-edges.png")
        picture.save(folder / names[0])
        picture.convert("L").filter(ImageFilter.FIND_EDGES).convert("RGB").save(folder / names[1])
        lines.append({"file_name": names[0], "conditioning_image_file_name": names[1], "text": caption})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metadata.jsonl").write_text(text, encoding="utf-8")
    return folder
