"""Writes pairs of pictures and control pictures of the storybook world, to train a ControlNet.

`python -m storybook.pairs --control silhouettes --count 4000 --output-dir pairs` writes a folder
with a `metadata.jsonl`, for `finetune controlnet --data-dir pairs`. With `--shard-size 500` they are
written as shards of WebDataset, each of so many pairs.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tarfile
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


def write_shards(folder: Path, control: str, count: int, seed: int = 0, each: int = 500) -> None:
    """Writes the pairs of `write_pairs` as WebDataset: `.tar` files of `each` pairs with their captions."""
    with whole_folder(folder) as aside:
        for first in range(0, count, each):
            with tarfile.open(aside / f"{first // each:05d}.tar", "w") as tar:
                for index in range(first, min(first + each, count)):
                    scene = draw_scene(np.random.default_rng((seed, index)))
                    _add(tar, f"{index:05d}.png", _png(scene.picture))
                    _add(tar, f"{index:05d}.conditioning.png", _png(scene.control(control)))
                    _add(tar, f"{index:05d}.txt", scene.caption.encode())


def _png(picture: Image.Image) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--control", choices=CONTROLS, default=CONTROLS[0])
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard-size", type=int, help="write .tar files of so many pairs each")
    parser.add_argument("--output-dir", type=Path, required=True)
    options = parser.parse_args(arguments)
    if options.output_dir.exists():
        parser.error(f"{options.output_dir} already exists")
    what = (options.output_dir, options.control, options.count, options.seed)
    if options.shard_size:
        write_shards(*what, options.shard_size)
    else:
        write_pairs(*what)
    print(f"Wrote {options.count} pairs to {options.output_dir}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
