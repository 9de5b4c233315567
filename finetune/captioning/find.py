"""Where a model that describes pictures is, and whether it is one, before its weights are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import errors, hf_hub_download, snapshot_download
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from finetune.backbones.hub import hub_fault, is_offline
from finetune.backbones.part import read_json
from finetune.errors import ModelError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FIX = (
    "Use a model that transformers loads for captions, such as Salesforce/blip-image-captioning-large or "
    "florence-community/Florence-2-base."
)
# Data only (promise P6): no pickles, no Python.
_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.safetensors"]


def find_model(name: str) -> tuple[Path, Mapping[str, Any]]:
    """The folder of a model, downloaded if need be, and its configuration.

    Args:
        name: A folder, or a Hub id, `owner/name`.

    Raises:
        ModelError: If there is no such model, it is of another kind, needs code of its own, or has no
            safetensors.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        config = _config_in(path)
    elif _HUB_ID.fullmatch(name) and not path.exists():
        path, config = _download(name)
    else:
        raise ModelError(f"There is no model {name!r}.", where="--model", fix=f"Give a folder. {_FIX}")
    if not any(path.glob("*.safetensors")):
        raise ModelError("The model has no weights as .safetensors.", where=name, fix=_FIX)
    return path, config


def own_code(name: str) -> ModelError:
    """The error for a model that only runs with Python code that comes with it."""
    return ModelError("This model needs Python code of its own, which is never run.", where=name, fix=_FIX)


def _config_in(path: Path) -> Mapping[str, Any]:
    if (path / "model_index.json").is_file():
        what = "This is a diffusers model, which makes pictures and does not describe them."
        raise ModelError(what, where=str(path), fix=_FIX)
    if not (path / "config.json").is_file():
        what = "This folder is not a model of transformers: it has no config.json."
        raise ModelError(what, where=str(path), fix=_FIX)
    return _checked(read_json(path / "config.json"), str(path))


def _checked(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    kind = config.get("model_type")
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return config
    if "auto_map" in config:
        raise own_code(name)
    raise ModelError(f"A model of the type {kind!r} does not describe pictures.", where=name, fix=_FIX)


def _download(name: str) -> tuple[Path, Mapping[str, Any]]:
    offline = is_offline()
    try:
        # It comes first, so that another kind of model is refused before gigabytes are downloaded.
        file = hf_hub_download(name, "config.json", local_files_only=offline)
        config = _checked(read_json(Path(file)), name)
        return Path(snapshot_download(name, allow_patterns=_FILES, local_files_only=offline)), config
    except (OSError, errors.EntryNotFoundError, errors.HfHubHTTPError, errors.HFValidationError) as error:
        local = "or give the folder of a model that is on this machine"
        raise hub_fault(error, name, kind="a model of transformers", fix=_FIX, offline=local) from error
