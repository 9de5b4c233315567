"""Writes LoRA, LoHa and LoKr files with the key names of kohya's sd-scripts and LyCORIS.

A1111, Forge, ComfyUI and InvokeAI read them; diffusers reads those of a plain LoRA. DoRA is written as
LyCORIS does (`dora_scale`, one per output). diffusers ignores `dora_scale` in this layout: with DoRA,
use the diffusers layout there. A word that was learned with it is in the file too (`bundle_emb`), as
A1111 reads it; Forge ignores it there and needs the word's own file.

A1111 and Forge compute DoRA differently from how it was trained; `export.plain` turns it into a plain LoRA.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from finetune.adapters.algorithms.difference import Difference
from finetune.adapters.inject import norms
from finetune.adapters.lora import LoRA
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.backbones import Backbone
from finetune.config import LoRASection
from finetune.formats.embeddings import bundle
from finetune.formats.tensors import write_tensors


def write_kohya(
    path: Path, lora: LoRA, metadata: Mapping[str, str], *, dtype: torch.dtype = torch.float32
) -> None:
    """Writes a trained LoRA as a file for A1111, Forge, ComfyUI and others.

    Args:
        path: The file; it appears whole or not at all.
        lora: The adapter.
        metadata: How the file was made (`formats.metadata`); `ss_network_*` are added.
        dtype: Of the weights in the file.
    """
    write_kohya_weights(path, lora.weights(), lora.backbone, lora.section, metadata, dtype)


def write_kohya_weights(
    path: Path,
    weights: LoRAWeights,
    backbone: Backbone,
    section: LoRASection,
    metadata: Mapping[str, str],
    dtype: torch.dtype,
) -> None:
    """As `write_kohya`, of weights that may come from a file.

    Args:
        path: The file.
        weights: What has been learned, new words too.
        backbone: The model, for the names.
        section: What it was trained with.
        metadata: How the file was made.
        dtype: Of the weights in the file.
    """
    tensors = kohya_tensors(weights, backbone)
    for word in weights.words:
        tensors |= bundle(word)
    cast = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    network = network_metadata(weights, section) if "unet" in weights.parts() else {}
    write_tensors(path, cast, {**metadata, **network})


def kohya_tensors(weights: LoRAWeights, backbone: Backbone) -> dict[str, Tensor]:
    """The content of the file.

    A LoRA has `lora_down`, `lora_up` and `alpha` of each layer, and `dora_scale` for DoRA; all layers of
    a part get the same alpha (see `LowRank.kohya`). A LoHa or LoKr has LyCORIS's `hada_*` or `lokr_*` and
    `alpha`.

    Args:
        weights: What has been learned.
        backbone: The model, for the names.
    """
    tensors: dict[str, Tensor] = {}
    for part, layers in weights.parts().items():
        alphas = Counter(layer.alpha for layer in layers.values() if not isinstance(layer, Difference))
        alpha = alphas.most_common(1)[0][0] if alphas else 1.0
        for name, layer in layers.items():
            key = backbone.kohya_name(part, name)
            tensors |= {f"{key}.{kind}": tensor for kind, tensor in layer.kohya(alpha).items()}
    return tensors | _vectors(weights, backbone)


def _vectors(weights: LoRAWeights, backbone: Backbone) -> dict[str, Tensor]:
    """Changes of biases as `diff_b`, and LyCORIS's `w_norm` and `b_norm` of norms.

    A1111 reads a norm's only if there are both, and ComfyUI `b_norm` only beside `w_norm`.
    """
    tensors: dict[str, Tensor] = {}
    roots = backbone.module_roots()
    known = {part: {backbone.file_name(part, live) for live in norms(roots[part])} for part in roots}
    for (part, parameter), change in weights.vectors.items():
        name, _, kind = parameter.rpartition(".")
        key = backbone.kohya_name(part, name)
        if name in known[part]:
            for role in ("w_norm", "b_norm"):
                tensors.setdefault(f"{key}.{role}", torch.zeros_like(change))
        tensors[f"{key}.{kind[0]}_norm" if name in known[part] else f"{key}.diff_b"] = change
    return tensors


def network_metadata(weights: LoRAWeights, section: LoRASection) -> dict[str, str]:
    """`ss_network_module`, `ss_network_dim`, `ss_network_alpha` and `ss_network_args`.

    Args:
        weights: What has been learned, at least one layer of the UNet.
        section: What it was trained with.
    """
    layers = [layer for layer in weights.parts()["unet"].values() if not isinstance(layer, Difference)]
    if not layers:
        return {"ss_network_module": "lycoris.kohya", "ss_network_args": json.dumps({"algo": "full"})}
    if section.algorithm == "lora":
        wide = [layer for layer in layers if math.prod(layer.shape[2:]) > 1]
        narrow = [layer for layer in layers if math.prod(layer.shape[2:]) == 1] or wide
        rank, alpha = _common_size(narrow)
        conv_rank, conv_alpha = _common_size(wide) if wide else (None, None)
    else:  # layers whose factors are whole do not show a LoKr's rank
        rank, alpha = section.rank, section.alpha
        conv_rank = section.conv_rank
        conv_alpha = conv_rank if section.conv_alpha is None else section.conv_alpha
    arguments = layers[0].lycoris(section)
    module = "lycoris.kohya" if arguments else "networks.lora"
    if conv_rank is not None:
        arguments |= {"conv_dim": str(conv_rank), "conv_alpha": f"{conv_alpha:g}"}
    return {
        "ss_network_module": module,
        "ss_network_dim": str(rank),
        "ss_network_alpha": f"{alpha:g}",
        "ss_network_args": json.dumps(arguments, sort_keys=True),
    }


def _common_size(layers: Sequence[LayerWeights]) -> tuple[int, float]:
    return Counter((layer.rank, layer.alpha) for layer in layers).most_common(1)[0][0]
