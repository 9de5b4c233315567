"""What a sampling call writes to a folder: single pictures and a sheet of all."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from finetune.files import remove_partials
from finetune.sampling.axes import PROMPT, Axis
from finetune.sampling.grid import Box, grid, laid_out, plot
from finetune.sampling.png import save_png
from finetune.sampling.sample import Sample


@dataclass(frozen=True)
class Saved:
    """Where pictures were written.

    Attributes:
        pictures: One path per sample, in order.
        grids: Sheets of all; none if there is only one picture.
    """

    pictures: tuple[Path, ...]
    grids: tuple[Path, ...] = ()


def sheet(samples: Sequence[Sample]) -> Image.Image:
    """A grid of samples with their prompts under them; see `laid_out_sheet`."""
    return laid_out_sheet(samples)[0]


def laid_out_sheet(samples: Sequence[Sample]) -> tuple[Image.Image, list[Box]]:
    """A grid of samples with their prompts under them, and where on it each of them is.

    Each prompt that has several pictures, up to 8, has a row; its labels show the seeds too.

    Args:
        samples: As a `Sampler` gives them, at least one.
    """
    if samples[0].settings.between:
        ends = [samples[0].prompt, *[""] * (len(samples) - 2), samples[-1].prompt]
        return laid_out([sample.image for sample in samples], len(samples), ends)
    prompts, num = {sample.prompt for sample in samples}, samples[0].settings.num
    several = len(prompts) < len(samples)
    columns = num if several and num <= 8 and len(samples) == len(prompts) * num else None
    labels = [f"{s.prompt} · {s.seed}" if several else s.prompt for s in samples]
    return laid_out([sample.image for sample in samples], columns, labels)


def save_samples(samples: Sequence[Sample], folder: Path) -> Saved:
    """Writes each picture as `PROMPT-SEED.png` and, for more than one, `grid.png`.

    Nothing is overwritten: a name that is taken gets the next free number. All PNGs say how they
    were made.
    """
    pictures = _save_each(samples, folder)
    return Saved(pictures, (_save_sheet(sheet(samples), samples, folder),) if len(samples) > 1 else ())


def plots(
    axes: Sequence[Axis], samples: Sequence[Sequence[Sample]]
) -> Iterator[tuple[Image.Image, list[Sample]]]:
    """A plot for each picture of a place.

    Args:
        axes: One or two.
        samples: The samples of each place, as many at each, in the order of `points`.

    Yields:
        The plot, and the samples in it.
    """
    across, down = axes[0], axes[1] if len(axes) > 1 else None
    for column in zip(*samples, strict=True):
        first = column[0]
        title = first.prompt if "seed" in {axis.key for axis in axes} else f"{first.prompt} · {first.seed}"
        images = [sample.image for sample in column]
        yield plot(images, _labels(across), _labels(down) if down else [""], title), list(column)


def _labels(axis: Axis) -> list[str]:
    if axis.key == PROMPT:
        return list(axis.values)
    return [f"{axis.key} {value}" for value in axis.values]


def save_plots(axes: Sequence[Axis], groups: Sequence[Sequence[Sequence[Sample]]], folder: Path) -> Saved:
    """As `save_samples`, with a plot for each prompt and seed.

    Args:
        axes: Of the plots.
        groups: For each set of prompts the samples at each place, in the order of `points`.
        folder: Where they go.
    """
    pictures = _save_each([sample for group in groups for place in group for sample in place], folder)
    made = [one for group in groups for one in plots(axes, group)]
    return Saved(pictures, tuple(_save_sheet(image, samples, folder) for image, samples in made))


def _save_each(samples: Sequence[Sample], folder: Path) -> tuple[Path, ...]:
    remove_partials(folder)
    paths = []
    for sample in samples:
        name = f"{slug(sample.prompt)}-{sample.seed}"
        paths.append(sample.save(folder / f"{name}.png"))
        if sample.frames:
            save_png(filmstrip(sample), folder / f"{name}-filmstrip.png", sample.info())
    return tuple(paths)


def filmstrip(sample: Sample) -> Image.Image:
    """The moments of a sample's denoising side by side, then the sample."""
    images = [*(frame for _, frame in sample.frames), sample.image]
    labels = [*(f"step {step}" for step, _ in sample.frames), sample.prompt]
    return grid(images, len(images), labels)


def _save_sheet(image: Image.Image, samples: Sequence[Sample], folder: Path) -> Path:
    return save_png(image, folder / "grid.png", *(sample.info() for sample in samples))


def slug(prompt: str) -> str:
    """A short file name from a prompt: letters and digits of any script, joined by "-"."""
    words = re.sub(r"[\W_]+", "-", prompt.lower()).strip("-")
    if len(words.encode()) > 60:  # file systems count bytes
        words = words.encode()[:60].decode(errors="ignore").rpartition("-")[0] or words[:15]
    return words or "picture"
