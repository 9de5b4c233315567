"""Reads PEFT's adapter folders: one, or one for each part of the model (`unet/`, `text_encoder/` …)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.backbones.tensors import read_tensors
from finetune.errors import WeightsError
from finetune.formats.tensors import damaged

PARTS = ("unet", "text_encoder", "text_encoder_2")
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
_KINDS = ("LORA", "LOHA", "LOKR")
Configs = dict[str, dict[str, Any]]


def adapter_folders(path: Path) -> list[Path]:
    """The adapter folders that `path` means: itself, or those of the model's parts in it; else none.

    Raises:
        WeightsError: If one of them has no safetensors file.
    """
    found = [folder for folder in (path, *(path / part for part in PARTS)) if (folder / CONFIG).is_file()]
    for folder in found:
        if not (folder / WEIGHTS).is_file():
            raise WeightsError(
                f"This adapter of PEFT has no {WEIGHTS}.",
                where=str(folder),
                fix="Save it with save_pretrained(…, safe_serialization=True); pickles are not loaded here.",
            )
    return found


def read_adapters(folders: Iterable[Path]) -> tuple[dict[str, Tensor], dict[str, str], Configs]:
    """Reads adapter folders.

    Returns:
        The tensors with their part before the name, as in diffusers' layout; the files' metadata; and PEFT's
        settings of each part. An adapter whose folder is not named like a part has tensors without one,
        and settings for all.

    Raises:
        WeightsError: If one is damaged, or of a kind that is not read.
    """
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, str] = {}
    configs: Configs = {}
    for folder in folders:
        part = folder.resolve().name
        own, about = read_tensors(folder / WEIGHTS)
        own = {name.removeprefix(PREFIX): tensor for name, tensor in own.items()}
        config = _config(folder / CONFIG, own)
        known = part in PARTS
        tensors |= {f"{part}.{name}" if known else name: tensor for name, tensor in own.items()}
        configs |= dict.fromkeys((part,) if known else PARTS, config)
        metadata |= about
    return tensors, metadata, configs


def _config(file: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise damaged("The settings of this adapter cannot be read.", file) from error
    if kind not in _KINDS:
        raise WeightsError(
            f"This folder holds an adapter of the kind {kind}, which is not supported.",
            where=str(file),
            fix=f"Supported are {', '.join(_KINDS)}.",
        )
    if any(name.startswith("encoder.") for name in tensors):  # a text encoder, as transformers 5 names it
        for key in ("rank_pattern", "alpha_pattern"):
            config[key] = {_classic(name): value for name, value in (config.get(key) or {}).items()}
    return dict(config)


def _classic(pattern: str) -> str:
    return rf"^text_model\.{pattern[1:]}" if pattern.startswith("^") else pattern
