"""A DoRA, LoHa or LoKr as a plain LoRA, which means the same to every program."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from finetune.adapters.algorithms.lora import LowRank
from finetune.adapters.inject import adaptable
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.backbones import Backbone
from finetune.config import LoRASection
from finetune.export.merge import check_free
from finetune.files import remove_partials
from finetune.formats import read_lora, write_tensors
from finetune.formats.embeddings import bundle
from finetune.formats.kohya import kohya_tensors, network_metadata
from finetune.formats.read import DIFFUSERS_METADATA

RANK = 64


def export_plain(lora: str | Path, backbone: Backbone, out: str | Path, *, rank: int = RANK) -> float:
    """Writes a LoRA file with kohya's key names whose update is that of a DoRA, as nearly as its rank allows.

    The change of each layer with DoRA magnitudes, W' - W, is taken exactly and cut to its largest
    singular values (Eckart and Young 1936). Other layers' changes stay exact.

    Args:
        lora: A run folder or a LoRA file in any layout.
        backbone: The model it was made for, in fp32; it is not changed.
        out: The file to write; it appears whole or not at all.
        rank: Rank of the layers with DoRA magnitudes; smaller layers get their full rank.

    Returns:
        The relative error: the norm of what was cut off, divided by the norm of the whole change.

    Raises:
        ConfigError: If `out` exists.
        WeightsError: If the LoRA is damaged or does not fit the model; nothing is written then.
    """
    file = Path(out)
    check_free(file)
    weights = read_lora(lora, backbone)
    layers: dict[tuple[str, str], LayerWeights] = {}
    lost = whole = 0.0
    for key, weight in _base_weights(backbone).items():
        if key in weights.layers:
            layers[key], cut, change = plain(weights.layers[key], weight, rank)
            lost, whole = lost + cut, whole + change
    made = replace(weights, layers=layers)
    tensors = kohya_tensors(made, backbone)
    for word in weights.words:
        tensors |= bundle(word)
    remove_partials(file.parent)
    write_tensors(file, tensors, _metadata(made))
    return float((lost / whole) ** 0.5) if whole else 0.0


@torch.no_grad()
def plain(layer: LayerWeights, weight: Tensor, rank: int) -> tuple[LowRank, float, float]:
    """One layer as a plain LoRA.

    Args:
        layer: Its update.
        weight: Its pretrained weight.
        rank: Rank of the LoRA if the update has DoRA magnitudes.

    Returns:
        The LoRA, and the squared norms of what was cut off and of the whole change.
    """
    if not (isinstance(layer, LowRank) and layer.magnitude is not None):
        return layer.low_rank(), 0.0, float(layer.delta().double().square().sum())
    base = weight.detach().cpu().double().flatten(1)
    direction = base + layer.delta().double().flatten(1)
    # A row of zeros has no direction and stays zero.
    change = layer.magnitude.double()[:, None] * functional.normalize(direction, eps=1e-30) - base
    left, values, right = torch.linalg.svd(change, full_matrices=False)
    kept = min(rank, len(values))
    root = values[:kept].sqrt()  # half of it on either side, so that neither overflows in fp16
    up = (left[:, :kept] * root).float().view(-1, kept, *[1] * (weight.ndim - 2))
    down = (root[:, None] * right[:kept]).float().view(kept, *weight.shape[1:])
    squares = values.square()
    return LowRank(down, up, float(kept)), float(squares[kept:].sum()), float(squares.sum())


def _base_weights(backbone: Backbone) -> dict[tuple[str, str], Tensor]:
    """The pretrained weight of each layer, by its part and its name in files."""
    return {
        (part, backbone.file_name(part, live)): layer.weight  # type: ignore[misc]
        for part, module in backbone.module_roots().items()
        for live, layer in adaptable(module).items()
    }


def _metadata(weights: LoRAWeights) -> dict[str, str]:
    """How the original was made, with the kind of network that this file holds."""
    kept = {key: value for key, value in weights.metadata.items() if key != DIFFUSERS_METADATA}
    return kept | (network_metadata(weights, LoRASection()) if "unet" in weights.parts() else {})
