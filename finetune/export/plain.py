"""A DoRA, LoHa or LoKr as a plain LoRA, which means the same to every program."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from finetune.adapters.algorithms import held_by_peft
from finetune.adapters.algorithms.lora import LowRank
from finetune.adapters.inject import adaptable
from finetune.adapters.weights import LayerWeights
from finetune.backbones import Backbone
from finetune.export.job import Job
from finetune.export.loras import refuse_vectors, section_of
from finetune.formats import read_lora
from finetune.formats.kohya import write_kohya_weights
from finetune.formats.write import own_metadata


def write_plain(job: Job) -> str:
    """A LoRA file with kohya's key names whose update is that of a DoRA, as nearly as its rank allows.

    The change of each layer with DoRA magnitudes, W' - W, or a full difference, is cut to its largest
    singular values (Eckart and Young 1936). LoHas and LoKrs become equal LoRAs.

    Args:
        job: Its rank is that of these layers; smaller layers get their full rank.

    Returns:
        A sentence with the relative error: the norm of what was cut off, divided by the norm of the whole.

    Raises:
        WeightsError: If the LoRA is damaged or does not fit the model; nothing is written then.
    """
    weights = read_lora(job.source, job.backbone)
    refuse_vectors(weights, "a plain LoRA", job.source)
    layers: dict[tuple[str, str], LayerWeights] = {}
    lost = whole = 0.0
    for key, weight in _base_weights(job.backbone).items():
        if key in weights.layers:
            layers[key], cut, change = plain(weights.layers[key], weight, job.rank)
            lost, whole = lost + cut, whole + change
    made = replace(weights, layers=layers)
    write_kohya_weights(
        job.out, made, job.backbone, section_of(made), job.told(own_metadata(made.metadata)), job.dtype
    )
    error = (lost / whole) ** 0.5 if whole else 0.0
    return f"It differs from the original by {error:.2%}."


@torch.no_grad()
def plain(layer: LayerWeights, weight: Tensor, rank: int) -> tuple[LowRank, float, float]:
    """One layer as a plain LoRA.

    Args:
        layer: Its update.
        weight: Its pretrained weight.
        rank: Rank of the LoRA if the update has DoRA magnitudes or is a full difference.

    Returns:
        The LoRA, and the squared norms of what was cut off and of the whole change.
    """
    if held_by_peft(layer) and not layer.depends_on_weight:
        return layer.low_rank(), 0.0, float(layer.delta().double().square().sum())
    change = layer.change(weight.detach().cpu().double()).flatten(1)
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
