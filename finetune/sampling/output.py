"""What a sampling call writes to a folder: single pictures and a sheet of all."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from finetune.files import remove_partials
from finetune.sampling.grid import grid
from finetune.sampling.png import save_png
from finetune.sampling.sample import Sample


@dataclass(frozen=True)
class Saved:
    """Where pictures were written.

    Attributes:
        pictures: One path per sample, in order.
        grid: The sheet of all, or None if there is only one picture.
    """

    pictures: tuple[Path, ...]
    grid: Path | None


def sheet(samples: Sequence[Sample]) -> Image.Image:
    """A grid of samples with their prompts under them.

    Each prompt that has several pictures, up to 8, has a row; its labels show the seeds too.

    Args:
        samples: As a `Sampler` gives them, at least one.
    """
    prompts, num = {sample.prompt for sample in samples}, samples[0].settings.num
    several = len(prompts) < len(samples)
    columns = num if several and num <= 8 and len(samples) == len(prompts) * num else None
    labels = [f"{s.prompt} · {s.seed}" if several else s.prompt for s in samples]
    return grid([sample.image for sample in samples], columns, labels)


def save_samples(samples: Sequence[Sample], folder: Path) -> Saved:
    """Writes each picture as `PROMPT-SEED.png` and, for more than one, `grid.png`.

    Nothing is overwritten: a name that is taken gets the next free number. All PNGs say how they
    were made.
    """
    remove_partials(folder)
    pictures = tuple(sample.save(folder / f"{slug(sample.prompt)}-{sample.seed}.png") for sample in samples)
    if len(samples) < 2:
        return Saved(pictures, None)
    infos = [sample.info() for sample in samples]
    return Saved(pictures, save_png(sheet(samples), folder / "grid.png", *infos))


def slug(prompt: str) -> str:
    """A short file name from a prompt: letters and digits of any script, joined by "-"."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    if len(words.encode()) > 60:  # file systems count bytes
        words = words.encode()[:60].decode(errors="ignore").rpartition("-")[0] or words[:15]
    return words or "picture"
