"""Writes pairs of pictures and control pictures of the storybook world, to train a ControlNet.

`python -m storybook.pairs --control silhouettes --count 4000 --output-dir pairs` writes a folder
with a `metadata.jsonl`, for `finetune controlnet --data-dir pairs`.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from finetune.data.control import control_pixels
from finetune.data.layouts.metadata import METADATA
from finetune.files import whole_folder
from storybook.captions import caption, prompt
from storybook.drawing import draw_with_mask
from storybook.pictures import SIZE
from storybook.world import Spec, sample_spec

CONTROLS = ("silhouettes", "edges")


@dataclass(frozen=True)
class Scene:
    """A drawn scene.

    Attributes:
        spec: What the picture shows.
        picture: RGB.
        mask: "L", 255 where the animal or its hat is.
        caption: Its caption.
    """

    spec: Spec
    picture: Image.Image
    mask: Image.Image
    caption: str

    def control(self, kind: str) -> Image.Image:
        """The control picture: the animal in white on black, or the whole scene's soft edges."""
        if kind == "silhouettes":
            return self.mask.convert("RGB")
        return Image.fromarray(control_pixels(np.asarray(self.picture), "edges"))


def draw_scene(rng: np.random.Generator, *, held_out: bool = False) -> Scene:
    """Draws a random scene; held-out ones, which training never shows, are captioned with the full prompt."""
    spec = sample_spec(rng, held_out=held_out)
    text = prompt(spec) if held_out else caption(spec, rng)
    picture, mask = draw_with_mask(spec, rng, SIZE)
    return Scene(spec, picture.convert("RGB"), mask, text)


def write_pairs(folder: Path, control: str, count: int, seed: int = 0) -> None:
    """Writes `count` pairs with captions; the folder appears whole or not at all.

    Args:
        folder: Where to write them.
        control: One of `CONTROLS`.
        count: How many.
        seed: Pair 7 is the same no matter how many are written.
    """
    with whole_folder(folder) as aside:
        (aside / control).mkdir()
        lines = []
        for index in range(count):
            scene = draw_scene(np.random.default_rng((seed, index)))
            name = f"{index:05d}.png"
            scene.picture.save(aside / name)
            scene.control(control).save(aside / control / name)
            line = {"file_name": name, "conditioning_image": f"{control}/{name}", "text": scene.caption}
            lines.append(json.dumps(line) + "\n")
        (aside / METADATA).write_text("".join(lines), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--control", choices=CONTROLS, default=CONTROLS[0])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.output_dir.exists():
        parser.error(f"{options.output_dir} already exists")
    write_pairs(options.output_dir, options.control, options.count, options.seed)
    print(f"Wrote {options.count} pairs to {options.output_dir}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
