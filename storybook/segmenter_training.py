"""Trains the segmenter on drawn pictures, and checks it on others.

```
python -m storybook.segmenter_training --out segmenter.safetensors
python -m storybook.segmenter_training --check [--out segmenter.safetensors]
```
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from storybook.drawing import draw_with_mask
from storybook.networks import save_network
from storybook.oracle_training import any_spec
from storybook.oracle_wear import fade
from storybook.segmenter import Segmenter, SegmenterNetwork, overlap

SIZE = 64
_STREAM, _CHECKS = 21, 22  # numbers of the random streams of training and of checks
_BATCH, _RATE = 64, 3e-3


def draw_masked(count: int, seed: int, stream: int = _STREAM) -> tuple[Tensor, Tensor]:
    """Drawn scenes, in which nothing tells about anything else, and where their animal is.

    Returns:
        uint8 `[count, 3, 64, 64]`, and bool `[count, 64, 64]`: more than half of the pixel is the animal.
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
        seed: Decides pictures, first weights and order.
        steps: Steps of 64 pictures each.
        pictures: How many to draw; they are used again and again, worn off differently each time.
    """
    drawn, masks = draw_masked(pictures, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SegmenterNetwork()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=0.02)
    generator = torch.Generator().manual_seed(seed)
    for step in range(1, steps + 1):
        chosen = torch.randint(pictures, (_BATCH,), generator=generator)
        batch, target = fade(drawn[chosen].float() / 255, generator), masks[chosen].float()
        if torch.rand((), generator=generator) < 0.5:
            batch, target = batch.flip(-1), target.flip(-1)
        for group in optimizer.param_groups:
            group["lr"] = _RATE * min(1.0, step / 40) * 0.5 * (1 + math.cos(math.pi * step / (steps + 1)))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(batch.contiguous(memory_format=torch.channels_last))
        loss = F.binary_cross_entropy_with_logits(logits.float(), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 100 == 0 or step == steps:
            print(f"step {step}/{steps}  loss {loss.item():.4f}", flush=True)
    save_network(network, out)
    return Segmenter.load(out)


def check(segmenter: Segmenter, count: int = 1000, seed: int = 0) -> dict[str, float]:
    """Mean overlap with the truth, and the share of pictures with 0.9 and more, on pictures never seen."""
    pixels, masks = draw_masked(count, seed, _CHECKS)
    worn = fade(pixels.float() / 255, torch.Generator().manual_seed(seed))
    with torch.inference_mode():
        found = {
            "drawn": overlap(segmenter.network(pixels.float() / 255) > 0, masks),
            "worn off": overlap(segmenter.network(worn) > 0, masks),
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
        parser.error("--out says where to write the segmenter")
    trained = None if given.check else train_segmenter(given.out, given.seed, given.steps, given.pictures)
    for name, value in check(trained or Segmenter.load(given.out)).items():
        print(f"{name:24} {value:.3f}")


if __name__ == "__main__":
    main()
