"""The first layout of LoRA files, of cloneofsimo/lora: layers have numbers instead of names.

Its keys are `unet:0:up`, `unet:0:down`, `text_encoder:0:up` …, and words such as `<s1>`. The numbers
count the layers in the order in which that program walks the model (`extract_lora_ups_down`): all linear
layers, and in its extended form all convolutions, below modules of certain classes, whose names are in
the file's metadata. A change is up · down, without alpha.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from torch import Tensor, nn

from finetune.adapters.inject import adaptable
from finetune.backbones import Backbone
from finetune.errors import WeightsError
from finetune.formats.tensors import damaged

_KEY = re.compile(r"(\w+):(\d+):(up|down)")
_CLASSES = {"unet": ("CrossAttention", "Attention", "GEGLU"), "text_encoder": ("CLIPAttention",)}
Layers = Sequence[tuple[str, nn.Module]]


def is_first_layout(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a file is in this layout."""
    return any(_KEY.fullmatch(key) for key in tensors)


def named(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file: Path, backbone: Backbone
) -> dict[str, Tensor]:
    """The file's LoRA with diffusers' names, for a model.

    Args:
        tensors: The file's content.
        metadata: Its metadata, with the classes of each part as JSON (`["CrossAttention", …]`).
        file: Where it is.
        backbone: The model that it is to be used with.

    Raises:
        WeightsError: If the layers are not those of the model, or the metadata is damaged.
    """
    parts: dict[str, dict[int, dict[str, Tensor]]] = {}
    others: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if match := _KEY.fullmatch(key):
            part, number, role = match.groups()
            parts.setdefault(part, {}).setdefault(int(number), {})[role] = tensor
        elif not key.startswith("<"):
            others[key] = tensor
    roots = backbone.module_roots()
    for part, rows in parts.items():
        classes = _classes(part, metadata, file)
        layers = _fitting(roots[part], classes, rows) if part in roots else None
        if layers is None:
            raise WeightsError(
                f"The {len(rows)} numbered layers of {part} are not those of {backbone.name}.",
                where=str(file),
                fix="This is a LoRA in the first layout, that of cloneofsimo/lora: choose the --model that "
                "it was made for.",
            )
        for number, row in rows.items():
            name = f"{part}.{backbone.file_name(part, layers[number][0])}"
            others |= {f"{name}.lora_{role}.weight": tensor for role, tensor in row.items()}
    return others


def _classes(part: str, metadata: Mapping[str, str], file: Path) -> Collection[str]:
    if part not in metadata:
        return _CLASSES.get(part, ())
    try:
        return {str(name) for name in json.loads(metadata[part])} | set(_CLASSES.get(part, ()))
    except (ValueError, TypeError) as error:
        raise damaged(f"The file's list of classes in {part} is damaged.", file) from error


def _fitting(
    module: nn.Module, classes: Collection[str], rows: Mapping[int, Mapping[str, Tensor]]
) -> Layers | None:
    """The layers that the numbers count; None if the shapes of some do not fit.

    diffusers once had the feed-forward layers of a transformer block before those of its cross-attention.
    Their shapes differ, so it is certain which order is meant.
    """
    inside = [name for name, part in module.named_modules() if type(part).__name__ in classes]
    starts = tuple(f"{name}." for name in inside)
    layers = [(name, layer) for name, layer in adaptable(module).items() if name.startswith(starts)]
    if rows.keys() != set(range(len(layers))):
        return None
    for order in (layers, _feed_forward_first(layers)):
        if all(_fits(layer, rows[number]) for number, (_, layer) in enumerate(order)):
            return order
    return None


def _feed_forward_first(layers: Layers) -> Layers:
    """The same layers, those of `ff` before those of `attn2` in each block."""
    ordered: list[tuple[str, nn.Module]] = []
    for name, layer in layers:
        place = len(ordered)
        if ".ff." in name:
            block = name.partition(".ff.")[0]
            while place and ordered[place - 1][0].startswith(f"{block}.attn2."):
                place -= 1
        ordered.insert(place, (name, layer))
    return ordered


def _fits(layer: nn.Module, row: Mapping[str, Tensor]) -> bool:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    up, down = row.get("up"), row.get("down")
    if up is None or down is None or min(up.ndim, down.ndim) < 2:
        return False
    return (up.shape[0], *down.shape[1:]) == tuple(weight.shape) and up.shape[1] == down.shape[0]
