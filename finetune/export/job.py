"""What every form of an export is written from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.backbones import Backbone
from finetune.errors import ConfigError

RANK = 64


@dataclass(frozen=True)
class Job:
    """One export.

    Attributes:
        source: A run folder, folder or file.
        backbone: The model that it was made for, or is, in fp32; it is not changed.
        out: The file or folder to write; it appears whole or not at all.
        dtype: Of the written weights.
        weight: Of a LoRA: 1 as trained.
        rank: Of the plain LoRA that stands for layers with DoRA magnitudes.
    """

    source: Path
    backbone: Backbone
    out: Path
    dtype: torch.dtype = torch.float32
    weight: float = 1.0
    rank: int = RANK


def check_free(out: Path) -> None:
    """Makes sure that a result may be written to `out`.

    Raises:
        ConfigError: If it exists and is not an empty folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(
            "This already exists, and results are never overwritten.",
            where=str(out),
            fix="Give a name that does not exist yet.",
        )
