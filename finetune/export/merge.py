"""A whole model, with a LoRA merged into its weights if there is one: a diffusers folder, or one file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from finetune.backbones.saving import save_folder
from finetune.export.job import Job
from finetune.files import whole_folder
from finetune.formats.checkpoint import readers, write_checkpoint
from finetune.formats.merged import merged

ABOUT = "finetune.json"


@contextmanager
def _merged(job: Job) -> Iterator[dict[str, str]]:
    """The job's model has its LoRA in its weights meanwhile; gives what is known of the LoRA (P7)."""
    with merged([(job.source, job.weight)], job.backbone) as (one,):
        known = {"merged": one["file"], "sha256": one["sha256"], "weight": f"{job.weight:g}"}
        yield known | one["metadata"]


def write_merged(job: Job) -> str:
    """The model with the LoRA in it, for `DiffusionPipeline.from_pretrained`."""
    with _merged(job) as about:
        return _folder(job, about)


def write_merged_file(job: Job) -> str:
    """The model with the LoRA in it as one checkpoint."""
    with _merged(job) as about:
        return _file(job, about)


def write_folder(job: Job) -> str:
    """A whole model as a diffusers folder."""
    return _folder(job, _known(job))


def write_file(job: Job) -> str:
    """A whole model as one checkpoint."""
    return _file(job, _known(job))


def _folder(job: Job, about: dict[str, str]) -> str:
    with whole_folder(job.out) as folder:
        save_folder(job.backbone, folder, job.dtype)
        text = json.dumps(job.told(about), indent=2, sort_keys=True) + "\n"
        (folder / ABOUT).write_text(text, encoding="utf-8")
    return f"Use it with --model {job.out}, or DiffusionPipeline.from_pretrained({str(job.out)!r})."


def _file(job: Job, about: dict[str, str]) -> str:
    key = "modelspec.architecture"
    whole = {name: value.removesuffix("/lora") if name == key else value for name, value in about.items()}
    write_checkpoint(job.out, job.backbone, job.told(whole), job.dtype)
    return readers(job.backbone, job.out)


def _known(job: Job) -> dict[str, str]:
    """What a whole model that this program wrote says about itself."""
    file = job.source / ABOUT
    if not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}
