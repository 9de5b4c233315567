"""Reads a LoRA or one of its kin in any of the layouts in `formats.keys`, ours or someone else's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from finetune.adapters.weights import LayerWeights, LoRAWeights, Role, Strength
from finetune.backbones import Backbone
from finetune.backbones.kinds import kind_of
from finetune.backbones.tensors import read_tensors
from finetune.errors import WeightsError
from finetune.formats.embeddings import bundled_words, is_embedding, learned_words, read_embedding
from finetune.formats.families import FAMILY_NAMES, made_for
from finetune.formats.first_layout import is_first_layout, named
from finetune.formats.keys import LayerNames, other_kind, parse_key
from finetune.formats.layers import layer_weights, may_be_update, vector_changes
from finetune.formats.peft_folder import WEIGHTS, Configs, adapter_folders, read_adapters
from finetune.formats.tensors import check_floats, damaged

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
DIFFUSERS_METADATA = "lora_adapter_metadata"
Layer = tuple[str, str]


def read_lora(path: str | Path, backbone: Backbone) -> LoRAWeights:
    """Reads a LoRA for `backbone`, which is not changed.

    Args:
        path: A safetensors file, a folder that holds one (a run folder or diffusers' folder), or PEFT's
            adapter folder, of one part of the model or of several.
        backbone: The model that it is to be used with; every key of the file must fit it.

    Returns:
        The weights in fp32 with their strength as alpha/rank, however the file gives it, and the new
        words in the file or next to it in the folder.

    Raises:
        WeightsError: If there is no such file, it is damaged, is not a LoRA, or any key or shape does
            not fit the model; the first few are named.
    """
    file = find_lora(Path(path))
    if adapters := adapter_folders(Path(path)):
        tensors, metadata, configs = read_adapters(adapters)
    else:
        tensors, metadata = read_tensors(file)
        configs = _configs(file, metadata)
    words, tensors = bundled_words(tensors, file, backbone)
    if is_first_layout(tensors):
        tensors = named(tensors, metadata, file, backbone)
    if beside := learned_words(Path(path)):
        words = (*words, read_embedding(beside, backbone))
    names = LayerNames(backbone)
    rows: dict[Layer, dict[Role, Tensor]] = {}
    unexpected: list[str] = []
    for name, tensor in tensors.items():
        key = parse_key(name)
        layer = names.find(key) if key else None
        if key is None or layer is None:
            unexpected.append(name)
        else:
            rows.setdefault(layer, {})[key.role] = tensor
    if not any(map(may_be_update, rows.values())) and not _may_be_lora(unexpected):
        raise _not_a_lora(file, tensors)
    if unexpected:
        raise _misfit(file, unexpected, len(tensors), "keys match no layer", backbone, (tensors, metadata))
    check_floats(tensors, file)
    layers: dict[Layer, LayerWeights] = {}
    vectors: dict[Layer, Tensor] = {}
    faults: list[str] = []
    for layer, row in rows.items():
        part, shape = layer[0], names.shapes[layer]
        try:
            flat, rest = vector_changes(row, shape, layer in names.biased)
            vectors |= {(part, f"{layer[1]}.{name}"): change for name, change in flat.items()}
            if rest:
                layers[layer] = layer_weights(rest, shape, Strength(layer[1], configs.get(part, {})))
        except ValueError as fault:
            faults.append(f"{'.'.join(layer)}: {fault}")
    if faults:
        raise _misfit(file, faults, len(rows), "layers do not fit", backbone, (tensors, metadata))
    return LoRAWeights(layers, metadata, words, vectors)


def _may_be_lora(names: list[str]) -> bool:
    kind = kind_of(names)  # an IP-Adapter for faces has LoRA layers for its own network
    return any(map(parse_key, names)) and (kind is None or kind.what == "a LoRA")


def find_lora(path: Path) -> Path:
    """The LoRA file that `path` means: itself, or the one in that folder.

    Raises:
        WeightsError: If there is none, or more than one to choose from.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise WeightsError(
            "There is no such LoRA.", where=str(path), fix="Give a safetensors file or a run folder."
        )
    if (path / DIFFUSERS_FILE).is_file():
        return path / DIFFUSERS_FILE
    if adapters := adapter_folders(path):
        return adapters[0] / WEIGHTS
    if learned_words(path):
        raise WeightsError(
            "This folder holds the embeddings of a new word, but no LoRA.",
            where=str(path),
            fix="Give it with --embedding.",
        )
    found = sorted(p for p in path.glob("*.safetensors") if not p.name.startswith("."))
    if len(found) == 1:
        return found[0]
    if found:
        raise WeightsError(
            f"There are {len(found)} files to choose from: {', '.join(p.name for p in found[:3])}.",
            where=str(path),
            fix="Give one of them.",
        )
    raise WeightsError(
        "This folder holds no LoRA.",
        where=str(path),
        fix="A run folder has one once its training is finished (continue it with --resume).",
    )


def _configs(file: Path, metadata: Mapping[str, str]) -> Configs:
    """PEFT's settings of each part, as diffusers keeps them: `{"unet.lora_alpha": 4, …}` in JSON."""
    try:
        flat = json.loads(metadata.get(DIFFUSERS_METADATA, "{}"))
        configs: Configs = {}
        for key, value in flat.items():
            part, _, setting = key.partition(".")
            configs.setdefault(part, {})[setting] = value
        return configs
    except (ValueError, AttributeError) as error:
        raise damaged(f"The file's {DIFFUSERS_METADATA} is damaged.", file) from error


def _not_a_lora(file: Path, tensors: Mapping[str, Tensor]) -> WeightsError:
    if is_embedding(tensors):
        return WeightsError(
            "This file holds the embedding of a new word, and no LoRA.",
            where=str(file),
            fix="Give it with --embedding.",
        )
    if kind := other_kind(tensors):
        return WeightsError(
            f"This file holds {kind}, which is not supported.", where=str(file), fix="Use a LoRA file."
        )
    if known := kind_of(tensors):
        what, fix = f"This file holds {known.what}, and no LoRA.", known.use
    else:
        what, fix = "This file holds no LoRA.", None
    return WeightsError(what, where=str(file), fix=fix or "Give a file with LoRA weights.")


def _misfit(
    file: Path,
    faults: list[str],
    count: int,
    what: str,
    backbone: Backbone,
    content: tuple[Mapping[str, Tensor], Mapping[str, str]],
) -> WeightsError:
    shown = "; ".join(faults[:3]) + (f"; and {len(faults) - 3} more" if len(faults) > 3 else "")
    origin, own = made_for(*content), FAMILY_NAMES[backbone.family].title
    if kind := other_kind(faults):
        fix = f"The file holds {kind}, which is not supported."
    elif origin and origin != own:
        fix = f"It seems to be made for {origin}, but {backbone.name} is {own}: choose a matching --model."
    else:
        fix = f"Use the model it was trained on instead of {backbone.name}."
    return WeightsError(f"{len(faults)} of {count} {what}: {shown}.", where=str(file), fix=fix)
