"""What is in a file: `finetune inspect`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.adapters.algorithms.lora import LowRank
from finetune.adapters.weights import LayerWeights
from finetune.backbones import Backbone
from finetune.formats import find_lora, read_lora, read_tensors
from finetune.formats.families import FAMILY_NAMES
from finetune.tools.blocks import by_block
from finetune.tools.programs import kinds_of, layout_of, programs
from finetune.tools.result import MADE_BY

TAGS = 10  # shown of those that the captions had most often


def describe(lora: Path, backbone: Backbone) -> dict[str, Any]:
    """A LoRA file as plain data, ready for JSON.

    The norm of a block is that of the change of all its weights (Frobenius), strength included; of a DoRA,
    without its magnitudes.

    Args:
        lora: A run folder or a LoRA file in any layout.
        backbone: The model it is for; only its structure is used.

    Raises:
        WeightsError: If the file is damaged or does not fit the model.
    """
    file = find_lora(lora)
    tensors, metadata = read_tensors(file)
    weights = read_lora(lora, backbone)
    layout = layout_of(tensors)
    loads, notes = programs(layout, weights, tensors)
    return {
        "file": file.name,
        "bytes": file.stat().st_size,
        "kinds": kinds_of(weights),
        "family": FAMILY_NAMES[backbone.family].title,
        "model": backbone.name,
        "layout": layout,
        "dtypes": _dtypes(tensors.values()),
        "blocks": [_block(name, layers) for name, layers in by_block(weights.layers).items()],
        "norm": norm(weights.layers.values()),
        "words": [{"word": word.text, "vectors": len(word.rows[0])} for word in weights.words],
        "loads_in": loads,
        "notes": notes,
        "trained": _trained(metadata),
        "made_by": _parsed(metadata.get(MADE_BY)),
        "origin": _origin(_parsed(metadata.get(MADE_BY))),
        "metadata": dict(sorted(metadata.items())),
    }


def _dtypes(tensors: Iterable[Tensor]) -> dict[str, int]:
    return dict(Counter(str(tensor.dtype).removeprefix("torch.") for tensor in tensors).most_common())


def _block(name: str, layers: list[LayerWeights]) -> dict[str, Any]:
    ranks, alphas = ([getattr(layer, what) for layer in layers] for what in ("rank", "alpha"))
    return {
        "block": name,
        "layers": len(layers),
        "rank": [min(ranks), max(ranks)],
        "alpha": [min(alphas), max(alphas)],
        "norm": norm(layers),
    }


@torch.no_grad()
def norm(layers: Iterable[LayerWeights]) -> float:
    """The norm of the change of all weights of some layers."""
    return float(sum(map(_square, layers)) ** 0.5)


def _square(layer: LayerWeights) -> float:
    if not isinstance(layer, LowRank):
        return float(layer.delta().double().square().sum())
    # ‖B·A‖² is the sum of BᵀB ∘ AAᵀ, two matrices as small as the rank.
    up, down = layer.up.flatten(1).double(), layer.down.flatten(1).double()
    return layer.scale**2 * float(((up.T @ up) * (down @ down.T)).sum().clamp(min=0))


def _trained(metadata: Mapping[str, str]) -> dict[str, Any]:
    """How it was trained, as far as the metadata says it: kohya's, Stability's or our own."""
    recipe = _parsed(metadata.get("finetune.recipe")) or {}
    found = {
        "by": "finetune " + metadata["finetune.version"] if "finetune.version" in metadata else None,
        "recipe": recipe.get("kind"),
        "model": metadata.get("ss_sd_model_name"),
        "steps": metadata.get("ss_steps") or metadata.get("ss_max_train_steps"),
        "learning_rate": metadata.get("ss_learning_rate"),
        "optimizer": metadata.get("ss_optimizer"),
        "resolution": metadata.get("modelspec.resolution") or metadata.get("ss_resolution"),
        "pictures": metadata.get("ss_num_train_images"),
        "trigger_phrase": metadata.get("modelspec.trigger_phrase"),
        "tags": _tags(_parsed(metadata.get("ss_tag_frequency")) or {}),
    }
    return {key: value for key, value in found.items() if value}


def _tags(frequency: Mapping[str, Any]) -> dict[str, int]:
    """The commonest tags of the captions over all folders."""
    tags: Counter[str] = Counter()
    for folder in frequency.values():
        for tag, count in folder.items() if isinstance(folder, dict) else ():
            tags[tag.strip()] += count if isinstance(count, int) else 0
    return dict(tags.most_common(TAGS))


def _origin(made: dict[str, Any] | None) -> str | None:
    """In words, what a file was made from by one of the tools; None if it does not say it as they do."""
    if made is None:
        return None
    try:
        if "tuned" in made:
            return f"finetune {made['tool']}: {made['tuned']['model']} minus {made['base']['model']}"
        inputs = (f"{one['file']} × {one['weight']:g}" for one in made["inputs"])
        return f"finetune {made['tool']} from {', '.join(inputs)}"
    except (KeyError, TypeError, ValueError):  # written by somebody else
        return None


def _parsed(text: str | None) -> dict[str, Any] | None:
    """A JSON object; None if there is none, or it is damaged (the raw text is in the metadata)."""
    try:
        value = json.loads(text or "")
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
