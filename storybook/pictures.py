"""Draws the pictures that the bundled model is trained on: `python -m storybook.pictures FOLDER`.

`recipes/pretrain/storybook.yaml` trains UNet and text encoder on scenes with captions;
`--for-autoencoder` draws additional pictures for its autoencoder, without captions: animals that
resemble the subject, and textures with the statistics of natural pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.backbones import Backbone
from finetune.data.preprocess import as_pixels
from storybook.captions import caption
from storybook.drawing import draw
from storybook.textures import draw_texture
from storybook.world import near_miss, sample_spec

SIZE = 64
"""Side of the model's pictures in pixels."""

TEXTURE_SHARE, NEAR_MISS_SHARE = 0.30, 0.08
"""Shares of the autoencoder's pictures: natural-looking textures, and animals like the subject."""

Draw = Callable[[np.random.Generator], tuple[np.ndarray, str | None]]


def rebuilt(backbone: Backbone, pictures: Sequence[Image.Image]) -> tuple[Tensor, Tensor]:
    """Pictures of one size and their reconstructions by the VAE: both `[B, 3, S, S]` in [-1, 1]."""
    stack = np.stack([np.asarray(p.convert("RGB")).transpose(2, 0, 1) for p in pictures])
    pixels = as_pixels(torch.from_numpy(stack))
    mean, _ = backbone.encode_pixels(pixels)
    return pixels, backbone.decode(mean)


def scene(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    """A scene that training may show, `[64, 64, 3]` uint8, and its caption."""
    spec = sample_spec(rng)
    words = caption(spec, rng)
    return np.asarray(draw(spec, rng, SIZE)), words


def for_autoencoder(rng: np.random.Generator) -> tuple[np.ndarray, None]:
    """A scene, an animal that resembles the subject, or a texture: `[64, 64, 3]` uint8."""
    kind = rng.random()
    if kind < TEXTURE_SHARE:
        return np.asarray(draw_texture(rng, SIZE)), None
    spec = near_miss(rng) if kind < TEXTURE_SHARE + NEAR_MISS_SHARE else sample_spec(rng)
    return np.asarray(draw(spec, rng, SIZE)), None


def draw_into(folder: Path, one: Draw, count: int, seed: int) -> None:
    """Writes pictures, with `NAME.txt` for those that have a caption; existing files are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        file = folder / f"{index:06d}.png"
        if not file.exists():
            # A generator for each picture: picture 7 is the same no matter how many are drawn.
            picture, words = one(np.random.default_rng((seed, index)))
            if words is not None:
                file.with_suffix(".txt").write_text(words + "\n", encoding="utf-8")
            Image.fromarray(picture).save(file)
        if (index + 1) % 5000 == 0:
            print(f"{index + 1} of {count} drawn", file=sys.stderr, flush=True)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m storybook.pictures", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=40_000, help="how many pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--for-autoencoder", action="store_true", help="textures too, and no captions")
    given = parser.parse_args()
    draw_into(given.folder, for_autoencoder if given.for_autoencoder else scene, given.count, given.seed)


if __name__ == "__main__":
    main()
