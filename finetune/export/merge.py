"""A whole model, with a LoRA merged into its weights if there is one: a diffusers folder, or one file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from finetune.backbones.planned import Changes
from finetune.export.job import Job
from finetune.formats.checkpoint import readers, write_checkpoint
from finetune.formats.merged import merged
from finetune.formats.model_folder import told_in, write_model_folder


@contextmanager
def _merged(job: Job) -> Iterator[tuple[dict[str, str], Changes]]:
    """What is known of the LoRA (P7), and what it makes of the model."""
    with merged([(job.source, job.weight)], job.backbone) as made:
        (one,) = made.about
        known = {"merged": one["file"], "sha256": one["sha256"], "weight": f"{job.weight:g}"}
        yield known | one["metadata"], made.changes


def write_merged(job: Job) -> str:
    """The model with the LoRA in it, for `DiffusionPipeline.from_pretrained`."""
    with _merged(job) as (about, changes):
        return _folder(job, about, changes)


def write_merged_file(job: Job) -> str:
    """The model with the LoRA in it as one checkpoint."""
    with _merged(job) as (about, changes):
        return _file(job, about, changes)


def write_folder(job: Job) -> str:
    """A whole model as a diffusers folder."""
    return _folder(job, _known(job))


def write_file(job: Job) -> str:
    """A whole model as one checkpoint."""
    return _file(job, _known(job))


def _folder(job: Job, about: Mapping[str, str], changes: Changes | None = None) -> str:
    write_model_folder(job.out, job.backbone, job.told(about), job.dtype, changes)
    return f"Use it with --model {job.out}, or DiffusionPipeline.from_pretrained({str(job.out)!r})."


def _file(job: Job, about: Mapping[str, str], changes: Changes | None = None) -> str:
    key = "modelspec.architecture"
    whole = {name: value.removesuffix("/lora") if name == key else value for name, value in about.items()}
    write_checkpoint(job.out, job.backbone, job.told(whole), job.dtype, changes)
    return readers(job.backbone, job.out)


def _known(job: Job) -> dict[str, str]:
    """What a whole model that this program wrote says about itself."""
    return {key: str(value) for key, value in told_in(job.source).items()}
