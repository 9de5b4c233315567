"""Sample pictures of a model in training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.config import PreviewSection
from finetune.sampling.output import sheet
from finetune.sampling.png import write_png
from finetune.sampling.sample import Sample
from finetune.sampling.sampler import Sampler


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
    prompts = preview_prompts(captions, section)
    samples = sampler(
        prompts,
        seed=[section.seed + i for i in range(len(prompts))],
        negative=section.negative,
        steps=section.steps,
        guidance=section.guidance,
        scheduler=section.scheduler,
        size=size,
    )
    if samples:
        write_png(sheet(samples), path, *(sample.info() for sample in samples))
    return samples


def preview_prompts(captions: Sequence[str], section: PreviewSection) -> list[str]:
    """The section's prompts, or `section.num` of the distinct captions, repeated if they are fewer."""
    if section.prompts is not None:
        return list(section.prompts)
    distinct = list(dict.fromkeys(captions)) or [""]
    return [distinct[i % len(distinct)] for i in range(section.num)]
