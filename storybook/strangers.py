"""How strange pictures are to the bundled model: `python -m storybook.strangers [FOLDER...]`.

Training on storybook says so when the pictures are not from its world, by the model's own loss on them
(:mod:`finetune.recipes.foreign`). This prints the lowest, median and highest loss for scenes of the world,
clean and degraded, and for the pictures in the folders; `--write` sets the model's limit
halfway between the strangest scene and the least strange picture of the folders.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.quiet import quiet
from finetune.backbones.resolve import storybook_folder
from finetune.config import ModelSection
from finetune.data import scan_folder
from finetune.data.decode import quiet_pillow
from finetune.data.preprocess import cut_out, place
from finetune.recipes.foreign import FILE, Measure, strangeness
from storybook.drawing import draw
from storybook.gates import STREAM
from storybook.pictures import NEAR_MISS_SHARE, SIZE
from storybook.world import near_miss, sample_spec

COUNT, AT_ONCE = 200, 50

Change = Callable[[Image.Image], Image.Image]


def jpeg(picture: Image.Image, quality: int) -> Image.Image:
    """The picture after it was saved as a JPEG."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _scaled(picture: Image.Image, side: int) -> Image.Image:
    return picture.resize((side, side), Image.Resampling.BICUBIC)


WEAR: dict[str, Change] = {
    "as drawn": lambda picture: picture,
    "JPEG at quality 60": lambda picture: jpeg(picture, 60),
    "JPEG at quality 30": lambda picture: jpeg(picture, 30),
    "enlarged to 512, JPEG at quality 75": lambda picture: jpeg(_scaled(picture, 512), 75),
    "reduced to 32": lambda picture: _scaled(picture, 32),
}
"""What may happen to pictures of the world before somebody trains on them."""


def draw_scenes(count: int) -> list[Image.Image]:
    """Scenes and animals that resemble the subject, drawn from a stream that training does not use."""
    rng = np.random.default_rng([STREAM, 4])
    specs = (near_miss(rng) if rng.random() < NEAR_MISS_SHARE else sample_spec(rng) for _ in range(count))
    return [draw(spec, rng, SIZE) for spec in specs]


def measured(backbone: Backbone, pictures: Sequence[Image.Image], measure: Measure) -> Tensor:
    """The strangeness of each picture, sorted."""
    size = backbone.native_size
    pixels = torch.stack([cut_out(p, place((p.height, p.width), (size, size))) for p in pictures])
    parts = (backbone.encode_pixels(chunk)[0] for chunk in pixels.split(AT_ONCE))
    return torch.cat([strangeness(backbone, mean, measure) for mean in parts]).sort().values


def show(name: str, values: Tensor, limit: float) -> None:
    """Prints one line."""
    low, middle, high = (float(values[i]) for i in (0, len(values) // 2, -1))
    above = int((values > limit).sum())
    print(f"{name:40} {low:.3f} {middle:.3f} {high:.3f}  foreign {above} of {len(values)}", flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints lowest, median and highest strangeness of each kind of picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, help="folders of pictures, such as photographs")
    parser.add_argument("--count", type=int, default=COUNT, help=f"scenes to draw (default: {COUNT})")
    parser.add_argument("--write", action="store_true", help="set the limit from scenes and folders")
    options = parser.parse_args(arguments)
    if options.write and not options.folders:
        parser.error("--write requires folders of pictures that are not from the world")
    with quiet():
        backbone = load_backbone(ModelSection(name="storybook"))
    file = storybook_folder() / FILE
    measure = Measure.read(file) if file.is_file() else Measure()  # a new model has none yet
    scenes, own, others = draw_scenes(options.count), 0.0, math.inf
    for name, change in WEAR.items():
        values = measured(backbone, [change(scene) for scene in scenes], measure)
        own = max(own, float(values[-1]))
        show(f"scenes, {name}", values, measure.limit)
    for folder in options.folders:
        with quiet_pillow():
            values = measured(backbone, [p.read() for p in scan_folder(folder).pictures], measure)
        others = min(others, float(values[0]))
        show(str(folder), values, measure.limit)
    if options.write:
        # Losses differ by factors, so the middle is the geometric one.
        measure = replace(measure, limit=round(math.sqrt(own * others), 3))
        file.write_text(json.dumps(asdict(measure)) + "\n", encoding="utf-8")
        print(f"limit {measure.limit} written to {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
