"""A whole model, with a LoRA merged into its weights if there is one: a diffusers folder, or one file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

from finetune.backbones.original import is_published
from finetune.backbones.saving import save_folder
from finetune.errors import WeightsError
from finetune.export.job import Job
from finetune.files import whole_folder
from finetune.formats import apply_lora, find_lora, read_lora, write_checkpoint

ABOUT = "finetune.json"


@contextmanager
def _merged(job: Job) -> Iterator[dict[str, str]]:
    """The job's model has its LoRA in its weights meanwhile; gives what is known of the LoRA (P7).

    The same goes for a LoHa or LoKr; new words that were learned with it are in the model too.

    Raises:
        WeightsError: If the LoRA is damaged or does not fit the model, or a weight is not finite.
    """
    file = find_lora(job.source)
    weights = read_lora(job.source, job.backbone)
    applied = apply_lora(job.backbone, weights, job.weight)
    try:
        restore = applied.merge()
    except ValueError as error:
        raise WeightsError(
            "Merged weights are not finite.", where=str(file), fix="Lower the weight."
        ) from error
    try:
        yield {"merged": file.name, "weight": f"{job.weight:g}", **weights.metadata}
    finally:
        restore()


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
    if not is_published(job.backbone):
        return (
            "No program can load it: a single file does not say how a model is built, and this one is not "
            "built like a published Stable Diffusion. Use --to merged."
        )
    return f"A1111, Forge and ComfyUI load it as a checkpoint, this program with --model {job.out}."


def _known(job: Job) -> dict[str, str]:
    """What a whole model that this program wrote says about itself."""
    file = job.source / ABOUT
    if not file.is_file():
        return {}
    content = json.loads(file.read_text(encoding="utf-8"))
    return {str(key): str(value) for key, value in content.items()} if isinstance(content, dict) else {}
