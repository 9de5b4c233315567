"""A ControlNet in another layout."""

from __future__ import annotations

from collections.abc import Mapping

from finetune.backbones.controlnet import WEIGHTS, find_branch, read_branch
from finetune.backbones.tensors import read_names
from finetune.export.job import Job
from finetune.files import whole_folder
from finetune.formats.controlnet import write_branch, write_controlnet_file


def write_controlnet_folder(job: Job) -> str:
    """As diffusers' folder."""
    branch = read_branch(job.source, job.backbone)
    with whole_folder(job.out) as folder:
        write_branch(folder, branch, branch.state_dict(), _metadata(job), job.dtype)
    loads = f"ControlNetModel.from_pretrained({str(job.out)!r})"
    return f"Use it with --controlnet {job.out}:PICTURE.png, or {loads}."


def write_controlnet_single(job: Job) -> str:
    """As one file with the original code's key names."""
    branch = read_branch(job.source, job.backbone)
    write_controlnet_file(job.out, branch, _metadata(job), job.dtype)
    here = f"Use it with --controlnet {job.out}:PICTURE.png"
    if branch.config.addition_embed_type is not None:  # which from_single_file forgets (diffusers 0.42)
        return f"{here}; for diffusers, write it with --to controlnet."
    return f"{here}, or ControlNetModel.from_single_file({str(job.out)!r})."


def _metadata(job: Job) -> Mapping[str, str]:
    place = find_branch(job.source)
    _, metadata = read_names(place if place.is_file() else place / WEIGHTS)
    return job.told({key: value for key, value in metadata.items() if key != "format"})
