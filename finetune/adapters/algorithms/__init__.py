"""LoRA and its kin, one module each: PEFT's layers, plain values, files, the equal LoRA."""

from __future__ import annotations

from finetune.adapters.algorithms.difference import Difference
from finetune.adapters.updates import Update
from finetune.adapters.weights import LayerWeights
from finetune.config.algorithms import ALGORITHMS
from finetune.config.choices import imported


def update_class(algorithm: str) -> type[Update]:
    """The `Update` class of an algorithm, by its name in `config.algorithms`."""
    cls: type[Update] = imported(ALGORITHMS[algorithm].cls)
    return cls


def weight_classes() -> list[type[LayerWeights]]:
    """The `LayerWeights` classes that files have tensors for."""
    return [*(update_class(name).values for name in ALGORITHMS), Difference]


def held_by_peft(layer: LayerWeights) -> bool:
    """Whether PEFT has layers that can hold this update."""
    return layer.algorithm in ALGORITHMS
