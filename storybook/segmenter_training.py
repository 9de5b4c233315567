"""Trains the segmenter on drawn pictures, and checks it on other ones.

```
python -m storybook.segmenter_training --out segmenter.safetensors
python -m storybook.segmenter_training --check [--out segmenter.safetensors]
```
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from storybook.drawing import draw_with_mask
from storybook.network_training import progress_printer, train_network
from storybook.networks import save_network
from storybook.oracle_training import any_spec
from storybook.oracle_wear import fade
from storybook.pictures import SIZE
from storybook.segmenter import Segmenter, SegmenterNetwork, overlap

_STREAM, _CHECKS = 21, 22  # numbers of the random streams for training and for checks
_BATCH = 64


def draw_masked(count: int, seed: int, stream: int = _STREAM) -> tuple[Tensor, Tensor]:
    """Drawn scenes, whose parts are independent of each other, and the masks of their animals.

    Returns:
        uint8 `[count, 3, 64, 64]`, and bool `[count, 64, 64]`: whether the animal covers more than half of
            the pixel.
    """
    pixels = np.empty((count, 3, SIZE, SIZE), dtype=np.uint8)
    masks = np.empty((count, SIZE, SIZE), dtype=np.bool_)
    for i in range(count):
        rng = np.random.default_rng([seed, stream, i])
        picture, mask = draw_with_mask(any_spec(rng), rng, SIZE)
        pixels[i] = np.asarray(picture).transpose(2, 0, 1)
        masks[i] = np.asarray(mask) > 127
    return torch.from_numpy(pixels), torch.from_numpy(masks)


def train_segmenter(out: Path, seed: int = 0, steps: int = 800, pictures: int = 10_000) -> Segmenter:
    """Trains a segmenter and writes it as fp16 safetensors.

    Args:
        out: The file to write.
        seed: Seed of the pictures, the initial weights and the order.
        steps: Steps of 64 pictures each.
        pictures: How many to draw; they are reused, degraded differently each time.
    """
    network = train_network(
        SegmenterNetwork,
        _batches(*draw_masked(pictures, seed), torch.Generator().manual_seed(seed)),
        lambda logits, masks: F.binary_cross_entropy_with_logits(logits.float(), masks),
        seed=seed,
        steps=steps,
        warmup_steps=40,
        after_step=progress_printer(),
    )
    save_network(network, out)
    return Segmenter.load(out)


def _batches(drawn: Tensor, masks: Tensor, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Degraded pictures with their masks, endlessly; about half of the batches are mirrored."""
    while True:
        chosen = torch.randint(len(drawn), (_BATCH,), generator=generator)
        batch, target = fade(drawn[chosen].float() / 255, generator), masks[chosen].float()
        if torch.rand((), generator=generator) < 0.5:
            batch, target = batch.flip(-1), target.flip(-1)
        yield batch, target


def check(segmenter: Segmenter, count: int = 1000, seed: int = 0) -> dict[str, float]:
    """Mean IoU with the true masks, and the share of pictures with 0.9 or more, on unseen pictures."""
    pixels, masks = draw_masked(count, seed, _CHECKS)
    worn = fade(pixels.float() / 255, torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        found = {
            "drawn": overlap(segmenter.network(pixels.float() / 255) > 0, masks),
            "degraded": overlap(segmenter.network(worn) > 0, masks),
        }
    means = {f"{name}, mean IoU": float(values.mean()) for name, values in found.items()}
    return means | {f"{name}, IoU ≥ 0.9": float((v >= 0.9).float().mean()) for name, v in found.items()}


def main(arguments: list[str] | None = None) -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Train or check the storybook's segmenter.")
    parser.add_argument("--out", type=Path, help="the segmenter's file (--check: default the bundled one)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--pictures", type=int, default=10_000, help="drawn pictures to train on")
    parser.add_argument("--check", action="store_true", help="print how well it reads silhouettes")
    given = parser.parse_args(arguments)
    if not given.check and given.out is None:
        parser.error("training requires --out, the file to write")
    trained = None if given.check else train_segmenter(given.out, given.seed, given.steps, given.pictures)
    for name, value in check(trained or Segmenter.load(given.out)).items():
        print(f"{name:24} {value:.3f}")


if __name__ == "__main__":
    main()
