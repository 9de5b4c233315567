"""A whole model as a diffusers folder that says how it was made (P7), and where it may be written (P2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from finetune.backbones import Backbone
from finetune.backbones.planned import Changes
from finetune.backbones.quantize import refuse_quantized
from finetune.backbones.saving import save_folder
from finetune.errors import ConfigError
from finetune.files import whole_folder

ABOUT = "finetune.json"
"""The file in the folder that says it."""


def write_model_folder(
    path: Path,
    backbone: Backbone,
    about: Mapping[str, str],
    dtype: torch.dtype,
    changes: Changes | None = None,
) -> None:
    """Writes a model as `DiffusionPipeline.from_pretrained` reads it.

    Args:
        path: The folder; it appears whole or not at all.
        backbone: The model; adapters must have been merged or detached.
        about: How it was made.
        dtype: Of the written weights.
        changes: What differs in the written model.

    Raises:
        WeightsError: If a weight is not finite in this precision.
        ConfigError: If the model is quantized.
    """
    refuse_quantized(backbone, "A written model")
    with whole_folder(path) as folder:
        save_folder(backbone, folder, dtype, changes)
        text = json.dumps(about, indent=2, sort_keys=True) + "\n"
        (folder / ABOUT).write_text(text, encoding="utf-8")


def told_in(folder: Path) -> dict[str, Any]:
    """What a model's folder says about how it was made; empty if nothing."""
    try:
        content = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def check_free(out: Path, force: bool | None = None) -> None:
    """Makes sure, before long work, that a result may be written to `out`.

    Args:
        out: A file or folder.
        force: Whether what is there is replaced; None if the user cannot say so.

    Raises:
        ConfigError: If something is there that is not an empty folder, and must not be replaced.
    """
    if out.exists() and not force and not (out.is_dir() and not any(out.iterdir())):
        replaced = "" if force is None else ", or replace it with --force"
        raise ConfigError(
            "This already exists, and results are never overwritten.",
            where=str(out),
            fix=f"Give a name that does not exist yet{replaced}.",
        )
