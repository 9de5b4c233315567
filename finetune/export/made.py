"""What a run folder, a folder or a file holds: a LoRA, a ControlNet, a new word, or a whole model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.backbones.controlnet import find_branch
from finetune.backbones.kinds import kind_of
from finetune.backbones.load import is_model
from finetune.backbones.tensors import read_names
from finetune.config.forms import Kind
from finetune.errors import WeightsError
from finetune.formats import find_lora
from finetune.formats.embeddings import is_embedding, learned_words

MODEL = "model"
"""Where a run folder has its whole model."""


@dataclass(frozen=True)
class Made:
    """Something that was trained.

    Attributes:
        kind: What it is.
        path: As the user gave it; for a run's whole model, the folder in the run.
    """

    kind: Kind
    path: Path


def what_is(path: Path) -> Made:
    """Looks at names only, not at weights.

    Args:
        path: A run folder, a folder of diffusers, or a safetensors file.

    Raises:
        WeightsError: If there is nothing, or nothing that is known.
    """
    for folder in (path / MODEL, path):
        if (folder / "model_index.json").is_file():
            return Made("model", folder)
    if path.is_dir():
        try:
            find_branch(path)
        except WeightsError:
            pass
        else:
            return Made("controlnet", path)
        if learned_words(path) and not _has_lora(path):
            return Made("embedding", path)
        find_lora(path)
        return Made("lora", path)
    if not path.is_file():
        raise WeightsError(
            "There is no such file or folder.", where=str(path), fix="Give a run folder or a file of weights."
        )
    return Made(_kind_of_file(path), path)


def _has_lora(folder: Path) -> bool:
    try:
        find_lora(folder)
    except WeightsError:
        return False
    return True


def _kind_of_file(path: Path) -> Kind:
    if is_model(str(path)):
        return "model"
    names, _ = read_names(path)
    if is_embedding(names):
        return "embedding"
    kind = kind_of(names)
    return "controlnet" if kind and kind.what == "a ControlNet" else "lora"
