"""Sample pictures of a model in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from finetune.config import PreviewSection
from finetune.sampling.grid import laid_out
from finetune.sampling.output import laid_out_sheet
from finetune.sampling.png import write_png
from finetune.sampling.sample import Sample
from finetune.sampling.sampler import Sampler

_COLUMNS = 4  # of pairs' pictures: two pairs in a row


def preview(
    sampler: Sampler, captions: Sequence[str], section: PreviewSection, path: Path, size: int | None = None
) -> list[Sample]:
    """Samples the preview's prompts and writes them as one grid.

    The i-th picture always has seed `section.seed + i`, so the grids of a run show the same noise
    growing into different pictures. A grid of the same step, left by a run that was resumed, is
    replaced.

    Args:
        sampler: Of the model in training; it is left as it was found.
        captions: Training captions, for a section without prompts.
        section: What to sample.
        path: The PNG to write.
        size: Side in pixels; the model's own if None.

    Returns:
        The samples, with their notes.
    """
    samples = _samples(sampler, preview_prompts(captions, section), section, size)
    if samples:
        image, places = laid_out_sheet(samples)
        write_png(image, path, *(sample.info() for sample in samples), places=places)
    return samples


def preview_pairs(
    sampler: Sampler,
    shown: Sequence[tuple[str, Image.Image]],
    section: PreviewSection,
    path: Path,
    size: int | None = None,
) -> list[Sample]:
    """As `preview`, with a ControlNet: each picture stands beside the control picture that it follows.

    Args:
        sampler: Of the model in training and its branch.
        shown: Captions and control pictures of some pairs; as many as `preview_count` says.
        section: What to sample; its prompts, if it has any, replace the captions.
        path: The PNG to write.
        size: Side in pixels; the model's own if None.
    """
    captions, controls = [list(column) for column in zip(*shown, strict=True)]
    prompts = captions if section.prompts is None else list(section.prompts)
    samples = _samples(sampler, prompts, section, size, controls)
    pictures = [p for sample, control in zip(samples, controls, strict=True) for p in (control, sample.image)]
    labels = [label for sample in samples for label in ("", sample.prompt)]
    image, places = laid_out(pictures, _COLUMNS, labels)
    write_png(image, path, *(sample.info() for sample in samples), places=places[1::2])
    return samples


def _samples(
    sampler: Sampler,
    prompts: Sequence[str],
    section: PreviewSection,
    size: int | None,
    controls: Sequence[Image.Image] | None = None,
) -> list[Sample]:
    return sampler(
        list(prompts),
        control_images=None if controls is None else [controls],
        seed=[section.seed + i for i in range(len(prompts))],
        negative=section.negative,
        steps=section.steps,
        guidance=section.guidance,
        scheduler=section.scheduler,
        size=size,
        emphasis="none",  # captions hold brackets of their own
    )


def preview_count(section: PreviewSection) -> int:
    """How many pictures a preview has."""
    return section.num if section.prompts is None else len(section.prompts)


def preview_prompts(captions: Sequence[str], section: PreviewSection) -> list[str]:
    """The section's prompts, or `section.num` of the distinct captions, repeated if there are fewer."""
    if section.prompts is not None:
        return list(section.prompts)
    distinct = list(dict.fromkeys(captions)) or [""]
    return [distinct[i % len(distinct)] for i in range(section.num)]
