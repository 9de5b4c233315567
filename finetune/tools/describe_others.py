"""What is in files other than LoRAs: whole models, and embeddings of new words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from finetune.backbones import Backbone
from finetune.backbones.checkpoint import read_header, stated_prediction
from finetune.backbones.part import read_json
from finetune.backbones.resolve import place
from finetune.errors import ModelError
from finetune.formats import read_tensors
from finetune.formats.embeddings import A1111, ENCODERS, NAMELESS, WORD_KEY, is_embedding
from finetune.formats.families import FAMILY_NAMES, TITLES
from finetune.tools.extract import told_by
from finetune.tools.programs import FILES, Loads

TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # safetensors' names, and PyTorch's


def describe_model(name: str, backbone: Backbone) -> dict[str, Any]:
    """A diffusers folder or a checkpoint file as plain data, from names and shapes; no weights are read.

    Args:
        name: The model's name, folder or file.
        backbone: Its structure.

    Raises:
        ModelError: If a file of it is damaged.
    """
    path = place(name)
    parts = {**backbone.module_roots(), "vae": backbone.vae}
    files = sorted(path.glob("*/*.safetensors")) if path.is_dir() else [path]
    loads = FILES["model-folder" if path.is_dir() else "model"]
    return {
        "file": Path(name).name,
        "kinds": ["whole model"],
        "family": FAMILY_NAMES[backbone.family].title,
        "inpainting": backbone.inpaints,
        "predicts": _prediction(path),
        "bytes": sum(file.stat().st_size for file in files),
        "dtypes": dict(sum(map(_dtypes, files), Counter[str]()).most_common()),
        "parameters": {
            part: sum(tensor.numel() for tensor in module.parameters()) for part, module in parts.items()
        },
        "loads_in": list(loads.programs),
        "notes": [loads.note] if loads.note else [],
        "metadata": dict(told_by(Path(name))),
    }


def _prediction(path: Path) -> str | None:
    """What the UNet predicts, if the model says it."""
    if path.is_dir():
        told = read_json(path / "scheduler" / "scheduler_config.json").get("prediction_type", "epsilon")
        return str(told)
    stated = stated_prediction(path, read_header(path, allow_pickle=False))
    return stated[0] if stated else None


def _dtypes(file: Path) -> Counter[str]:
    try:
        with safe_open(file, framework="pt") as opened:
            types = (opened.get_slice(name).get_dtype() for name in opened.keys())  # noqa: SIM118
            return Counter(TYPES.get(stored, stored) for stored in types)
    except (OSError, SafetensorError) as error:
        raise ModelError(
            "This is not a readable safetensors file, or it is truncated.",
            where=str(file),
            fix="Get the model again.",
        ) from error


def describe_embedding(file: Path) -> dict[str, Any] | None:
    """A file of a new word's embeddings as plain data; None if it is none.

    Raises:
        WeightsError: If it is not a readable safetensors file.
    """
    tensors, metadata = read_tensors(file)
    if not is_embedding(tensors) and WORD_KEY not in metadata:
        return None
    rows = {key: tensor for key, tensor in tensors.items() if tensor.ndim == 2}
    vectors = max(map(len, rows.values()), default=0)
    return {
        "file": file.name,
        "kinds": ["embedding"],
        "family": _family(rows),
        "bytes": file.stat().st_size,
        "dtypes": dict(Counter(str(t.dtype).removeprefix("torch.") for t in tensors.values())),
        "words": [{"word": _word(file, tensors, metadata), "vectors": vectors}],
        "widths": {key: tensor.shape[1] for key, tensor in rows.items()},
        "loads_in": list(_loads(rows).programs),
        "notes": [note] if (note := _loads(rows).note) else [],
        "metadata": dict(sorted(metadata.items())),
    }


def _word(file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    named = [key for key in tensors if key not in (*NAMELESS, *ENCODERS)]
    return metadata.get(WORD_KEY) or (named[0] if len(tensors) == 1 and named else file.stem)


def _family(rows: Mapping[str, Tensor]) -> str | None:
    """By the width of the vectors; SDXL has two."""
    if set(ENCODERS) <= rows.keys():
        return FAMILY_NAMES["sdxl"].title
    return next((TITLES.get(tensor.shape[1]) for tensor in rows.values()), None)


def _loads(rows: Mapping[str, Tensor]) -> Loads:
    if set(ENCODERS) <= rows.keys():
        return FILES["word-sdxl"]
    return FILES["word" if rows.keys() <= {*NAMELESS, A1111} else "word-diffusers"]
