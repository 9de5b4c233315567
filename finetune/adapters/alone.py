"""One weight with an update merged into it, while the model it is from stays as it is."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from finetune.adapters.algorithms import held_by_peft, update_class
from finetune.adapters.changes import added
from finetune.adapters.inject import LayerSize, inject
from finetune.adapters.weights import LayerWeights


@torch.no_grad()
def merged_weight(module: nn.Module, layer: LayerWeights, scale: float, weight: Tensor) -> Tensor:
    """A layer's weight with its update merged in, to the bits that merging into the whole model gives.

    Args:
        module: The layer, an `nn.Linear` or `nn.Conv2d` without adapters; it is not changed.
        layer: The update.
        scale: Its weight: 1 as trained.
        weight: The layer's weight to merge into, fp32, of the shape of the module's.

    Raises:
        ValueError: If the merged weight is not finite.
    """
    if not held_by_peft(layer):
        return added(layer.change, scale, weight)
    alone = copy.copy(module)
    alone._parameters = {**module._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    holder = nn.ModuleDict({"layer": alone})
    size = {"layer": LayerSize(layer.rank, layer.alpha)}
    update = inject(holder, size, "merged", update_class(layer.algorithm), **layer.variant())["layer"]
    update.fill(layer)
    update.set_scale(scale)
    update.merge()
    made: Tensor = update.base_layer.weight.data
    return made
