"""Whether a subject is learned from pictures of any shape: `python -m storybook.shapes --output-dir shapes`.

The demo's subject is drawn in five shapes, from 2:1 to 1:2, at the side of the wide pictures and at the
bottom of the tall ones. LoRAs are trained with storybook's defaults on the square pictures of the demo, on
the five shapes in buckets (`data.buckets=true`), and on the five shapes cropped to squares; the oracle reads
what they sample.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.quiet import quiet
from finetune.config import DataSection, ModelSection
from finetune.data.buckets import trained_sizes
from finetune.data.preprocess import Placement, place
from finetune.recipes.load import Setting, build
from finetune.recipes.run import run
from finetune.sampling.grid import grid
from finetune.sampling.sampler import Sampler
from storybook.drawing import draw_subject, write_subject
from storybook.gates import USUAL, Figures, check_lora, show
from storybook.oracle import Oracle

RATIOS = {"2:1": 2, "3:2": 3 / 2, "1:1": 1, "2:3": 2 / 3, "1:2": 1 / 2}
"""The five shapes, from the widest to the tallest: width divided by height."""

PROMPTS = (
    "a photo of mycat on snow",
    "a photo of mycat in a forest",
    "a photo of mycat at night",
    "a photo of mycat wearing a red hat in a meadow",
    "a photo of mycat wearing a green hat on a beach",
)
"""Of the samples that are shown."""

_SHOWN = 256  # the longer side of a picture in the grid
_SQUARE_MARK, _BUCKET_MARK = (220, 0, 0), (20, 30, 110)


Drawn = Sequence[tuple[Image.Image, Image.Image]]
"""Pictures with the masks of the subject in them."""


@dataclass(frozen=True)
class Way:
    """A way to train on the subject.

    Attributes:
        ratios: Shapes of its pictures, used in turn.
        buckets: Whether they are trained in buckets, or else cropped to squares.
    """

    ratios: Sequence[float]
    buckets: bool


_FIVE = list(RATIOS.values())
WAYS = {
    "square pictures": Way([1], buckets=False),
    "five shapes, in buckets": Way(_FIVE, buckets=True),
    "five shapes, cropped to squares": Way(_FIVE, buckets=False),
}


def placements(way: Way, drawn: Drawn, backbone: Backbone) -> list[Placement]:
    """How training crops each picture."""
    sizes = [(picture.height, picture.width) for picture, _ in drawn]
    data = DataSection(buckets=way.buckets)
    items = trained_sizes(sizes, data, backbone.native_size, backbone.latent_factor)
    return [place(sizes[index], size) for index, size in items]


def crop_box(picture: Image.Image, placement: Placement) -> tuple[int, int, int, int]:
    """The crop in the picture as it was drawn: left, top, right and bottom in pixels."""
    (height, width), (top, left), (rows, columns) = placement.resized, placement.cut, placement.size
    across, down = picture.width / width, picture.height / height
    return (
        round(left * across),
        round(top * down),
        round((left + columns) * across),
        round((top + rows) * down),
    )


def in_view(mask: Image.Image, placement: Placement) -> float:
    """The share of an animal that is left after cropping, from its mask ("L", 255 where it is)."""
    whole, part = (np.asarray(m, dtype=float).sum() for m in (mask, mask.crop(crop_box(mask, placement))))
    return float(part / whole)


def train(name: str, seed: int, folder: Path, steps: int | None = None) -> Path:
    """Trains a LoRA in one of the `WAYS`.

    Args:
        name: Of the way.
        seed: Of the training.
        folder: Where the pictures are drawn and the run folder goes.
        steps: Of the training; storybook's default if None.

    Returns:
        The run folder.
    """
    way, here = WAYS[name], folder / name.replace(",", "").replace(" ", "-")
    pictures, output = here / "mycat", here / f"seed-{seed}"
    write_subject(pictures, ratios=way.ratios)
    settings = {
        "model.name": "storybook",
        "data.instance_dir": str(pictures),
        "data.buckets": way.buckets,
        "training.seed": seed,
        "preview.every": 0,  # changes nothing but the time
        "output.dir": str(output),
    }
    if steps is not None:
        settings["training.steps"] = steps
    recipe = build("lora", [Setting(key, value, key) for key, value in settings.items()])
    run(recipe, tell=lambda line: print(f"  {line}", flush=True))
    return output


def measure(lora: Path, oracle: Oracle, count: int) -> tuple[Figures, list[Image.Image]]:
    """The figures of `check_lora` over so many prompts, and samples of `PROMPTS`."""
    with quiet():
        sampler = Sampler.load("storybook", loras=[str(lora)], precision="bf16")
    figures = check_lora(sampler, oracle, count=count)
    samples = sampler(list(PROMPTS), seed=list(range(len(PROMPTS))), **USUAL)
    return figures, [sample.image for sample in samples]


def marked(drawn: Drawn, backbone: Backbone) -> list[Image.Image]:
    """The pictures, with the edges of what training sees of them: blue in buckets, red in squares."""
    pictures = []
    boxes = {name: placements(way, drawn, backbone) for name, way in WAYS.items() if way.ratios is _FIVE}
    for index, (picture, _) in enumerate(drawn):
        shown = picture.copy()
        shown.thumbnail((_SHOWN, _SHOWN))
        draw = ImageDraw.Draw(shown)
        for name, found in boxes.items():
            left, top, right, bottom = crop_box(shown, found[index])
            color = _BUCKET_MARK if WAYS[name].buckets else _SQUARE_MARK
            draw.rectangle((left, top, right - 1, bottom - 1), outline=color, width=3)
        pictures.append(shown)
    return pictures


def sheet(drawn: Drawn, backbone: Backbone, samples: Mapping[str, Sequence[Image.Image]]) -> Image.Image:
    """A row of the five pictures with their crops marked, and one of samples for each way."""
    pictures = marked(drawn, backbone)
    labels = list(RATIOS)
    for name, row in samples.items():
        pictures += [image.resize((_SHOWN, _SHOWN), Image.Resampling.LANCZOS) for image in row]
        labels += [f"{name}: {prompt.removeprefix('a photo of ')}" for prompt in PROMPTS]
    return grid(pictures, len(RATIOS), labels)


def show_views(drawn: Drawn, backbone: Backbone) -> None:
    """Prints how much of the subject each way of cropping leaves in each picture."""
    print("of the subject in view, by shape of the picture")
    print(f"  {'':34}" + "".join(f"{shape:>8}" for shape in RATIOS))
    for name, way in WAYS.items():
        if way.ratios is _FIVE:
            found = zip(drawn, placements(way, drawn, backbone), strict=True)
            print(f"  {name:34}" + "".join(f"{in_view(mask, p):8.0%}" for (_, mask), p in found), flush=True)


def show_figures(found: Mapping[str, Sequence[Figures]]) -> None:
    """Prints mean, lowest and highest of each figure over the runs of each way."""
    for key in next(iter(found.values()))[0]:
        print(key)
        for name, runs in found.items():
            values = [100 * figures[key] for figures in runs]
            print(
                f"  {name:34} {np.mean(values):6.1f} %  ({min(values):.1f} to {max(values):.1f})", flush=True
            )


def main(arguments: Sequence[str] | None = None) -> int:
    """Draws, trains, samples, and prints what the oracle sees."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="for pictures, runs and the sheet")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each way (default: 3)")
    parser.add_argument("--count", type=int, default=100, help="samples of each run (default: 100)")
    parser.add_argument("--steps", type=int, help="of each run (default: that of storybook)")
    options = parser.parse_args(arguments)
    if options.output_dir.exists():
        parser.error(f"{options.output_dir} already exists")
    drawn, oracle = draw_subject(len(_FIVE), ratios=_FIVE), Oracle.load()
    with quiet():
        backbone = load_backbone(ModelSection(name="storybook"))
    show_views(drawn, backbone)
    found: dict[str, list[Figures]] = {}
    samples: dict[str, list[Image.Image]] = {}
    for seed in range(options.seeds):
        for name in WAYS:
            print(f"{name}, seed {seed}", flush=True)
            lora = train(name, seed, options.output_dir, options.steps)
            figures, images = measure(lora, oracle, options.count)
            show("  read by the oracle", figures)
            found.setdefault(name, []).append(figures)
            samples.setdefault(name, images)
    show_figures(found)
    sheet(drawn, backbone, samples).save(options.output_dir / "shapes.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
