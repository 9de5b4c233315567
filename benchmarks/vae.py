"""What a VAE gains from bf16 and loses by it: `python -m benchmarks.vae`.

A picture is encoded and decoded in turn in one process in fp32, with the large convolutions in bf16
(`model.vae_precision`), and with a VAE that is in bf16 altogether. "off by" is the root of the mean square of
the difference from fp32: of the latents relative to their deviation, of the decoded picture in levels of 256.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch
from PIL import Image
from torch import Tensor

from benchmarks.machine import describe, wait_until_quiet
from benchmarks.measure import ROOT, at_least
from benchmarks.table import markdown
from finetune.backbones import Backbone, load_stored
from finetune.backbones.memory import computing_in
from finetune.backbones.precision import best_device
from finetune.config import ModelSection
from finetune.data.preprocess import as_pixels, cropped, place
from finetune.kernels import keep_freed_memory

PICTURE = ROOT / "datasets" / "mycat" / "mycat-1.png"
FP32, OURS, HALF = "fp32", "convolutions in bf16", "all in bf16"


@dataclass
class Way:
    """One way to compute a VAE, and what was found out about it."""

    encode: Callable[[Tensor], Tensor]
    decode: Callable[[Tensor], Tensor]
    encoding: list[float] = field(default_factory=list)
    decoding: list[float] = field(default_factory=list)
    latents: float = 0.0
    levels: float = 0.0


def ways(model: Backbone) -> dict[str, Way]:
    """By name; the first is exact."""

    def own(dtype: torch.dtype) -> Way:
        def encode(pixels: Tensor) -> Tensor:
            model.vae_dtype = dtype
            return model.encode_pixels(pixels)[0]

        def decode(latents: Tensor) -> Tensor:
            model.vae_dtype = dtype
            return model.decode(latents)

        return Way(encode, decode)

    return {FP32: own(torch.float32), OURS: own(torch.bfloat16), HALF: _half(model)}


def _half(model: Backbone) -> Way:
    vae, scale = model.vae, float(model.vae.config.scaling_factor)

    @torch.no_grad()
    def encode(pixels: Tensor) -> Tensor:
        with computing_in(torch.bfloat16, [vae]):
            found: Tensor = vae.encode(pixels.bfloat16()).latent_dist.mean
        return found.float() * scale

    @torch.no_grad()
    def decode(latents: Tensor) -> Tensor:
        with computing_in(torch.bfloat16, [vae]):
            found: Tensor = vae.decode((latents / scale).bfloat16()).sample
        return found.float().clamp(-1, 1)

    return Way(encode, decode)


def measure(model: Backbone, pixels: Tensor, repeats: int, patience: float) -> dict[str, Way]:
    """Each way's figures for a picture `[1, 3, H, W]`."""
    found = ways(model)
    exact = found[FP32]
    latents = exact.encode(pixels)
    picture = exact.decode(latents)
    for way in found.values():
        way.latents = float((way.encode(pixels) - latents).square().mean().sqrt() / latents.std())
        way.levels = float((way.decode(latents) - picture).square().mean().sqrt() * 127.5)
    for _ in range(repeats):
        for way in found.values():
            wait_until_quiet(patience)
            way.encoding.append(_seconds(way.encode, pixels))
            way.decoding.append(_seconds(way.decode, latents))
    return found


def _seconds(work: Callable[[Tensor], Tensor], given: Tensor) -> float:
    began = time.monotonic()
    work(given).cpu()
    return time.monotonic() - began


def table(found: Mapping[str, Way]) -> str:
    """A row for each way; ratios are to the first."""
    base = next(iter(found.values()))
    rows = [
        [
            name,
            *(f"{median(way.encoding):.3f}", f"{median(way.encoding) / median(base.encoding):.2f}"),
            f"{100 * way.latents:.2f}",
            *(f"{median(way.decoding):.3f}", f"{median(way.decoding) / median(base.decoding):.2f}"),
            f"{way.levels:.2f}",
        ]
        for name, way in found.items()
    ]
    encoding = ("encoding, s", "ratio", "latents off by, %")
    return markdown(["", *encoding, "decoding, s", "ratio", "levels off by"], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.vae",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", default="storybook", help="a folder, file or alias (default: %(default)s)")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="default: a drawn cat")
    parser.add_argument("--size", type=int, default=512, help="side in pixels (default: %(default)s)")
    parser.add_argument("--repeats", type=at_least(1), default=3, help="(default: %(default)s)")
    parser.add_argument("--patience", type=float, default=240, help="seconds to wait for a quiet machine")
    given = parser.parse_args(arguments)
    keep_freed_memory()
    model = load_stored(ModelSection(name=given.model)).to(best_device())
    image = Image.open(given.picture).convert("RGB")
    pixels = as_pixels(cropped(image, place((image.height, image.width), (given.size, given.size))))[None]
    found = measure(model, pixels.to(model.device), given.repeats, given.patience)
    print("\n".join(f"{key}: {value}" for key, value in describe().items()))
    print(f"\n{model.name}, {given.size} px\n\n{table(found)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
