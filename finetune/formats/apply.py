"""Puts LoRAs that were read from files onto a model, each with its own weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from finetune.adapters.inject import LayerSize, Update, eject, inject
from finetune.adapters.weights import LoRAWeights
from finetune.backbones import Backbone
from finetune.backbones.names import live_text_name

PARTS = ("unet", "text_encoder", "text_encoder_2")


class Applied:
    """A LoRA on a model.

    Args:
        name: Its name among the adapters of the model.
        updates: The update of each layer.
        modules: The parts of the model that have one.
    """

    def __init__(
        self, name: str, updates: Mapping[tuple[str, str], Update], modules: Mapping[str, nn.Module]
    ) -> None:
        self.name, self.updates, self._modules = name, updates, modules

    def set_scale(self, scale: float) -> None:
        """Sets the weight: 1 as trained, 0 off."""
        for update in self.updates.values():
            update.set_scale(scale)

    def merge(self) -> Callable[[], None]:
        """Adds the updates to the model's weights and takes the LoRA layers off.

        Returns:
            What to call to give the model its old weights back, to the bit.

        Raises:
            ValueError: If a merged weight is not finite; the model is then as before.
        """
        before: list[tuple[Update, Tensor]] = []

        def restore() -> None:
            for update, weight in before:
                update.restore(weight)

        try:
            with torch.no_grad():
                for update in self.updates.values():
                    before.append((update, update.merge()))
        except ValueError:
            restore()
            raise
        finally:
            self.remove()
        return restore

    def remove(self) -> None:
        """Takes the LoRA off; the model is then as it was before, to the bit."""
        for module in self._modules.values():
            eject(module, self.name)


def apply_lora(target: Backbone | Any, weights: LoRAWeights, scale: float = 1.0) -> Applied:
    """Puts a LoRA on a model, in addition to those that are already there.

    The update is computed in fp32 beside the layers, whose weights stay as they are.

    Args:
        target: A backbone or a diffusers pipeline; its modules are changed in place.
        weights: From `read_lora` for this model, or from `LoRA.weights`.
        scale: Its weight: 1 as trained, 0 off; may be negative or above 1.
    """
    roots = target.module_roots() if isinstance(target, Backbone) else _parts(target)
    parts = weights.parts()
    modules = {part: roots[part] for part in parts}
    name = _free_name(roots)
    updates: dict[tuple[str, str], Update] = {}
    for part, layers in parts.items():
        module = modules[part]
        live = {key if part == "unet" else live_text_name(module, key): key for key in layers}
        sizes = {own: LayerSize(layers[key].rank, layers[key].alpha) for own, key in live.items()}
        dora = any(layer.magnitude is not None for layer in layers.values())
        for own, update in inject(module, sizes, name, dora=dora).items():
            updates[part, live[own]] = update
    _fill(weights, updates)
    applied = Applied(name, updates, modules)
    applied.set_scale(scale)
    return applied


@torch.no_grad()
def _fill(weights: LoRAWeights, updates: Mapping[tuple[str, str], Update]) -> None:
    for key, update in updates.items():
        layer = weights.layers[key]
        update.down.copy_(layer.down)
        update.up.copy_(layer.up)
        if update.magnitude is not None and layer.magnitude is not None:
            update.magnitude.copy_(layer.magnitude.view(update.magnitude.shape))
        for parameter in (update.down, update.up, update.magnitude):
            if parameter is not None:
                parameter.requires_grad_(False)


def _parts(pipeline: Any) -> dict[str, nn.Module]:
    found = {part: getattr(pipeline, part, None) for part in PARTS}
    return {part: module for part, module in found.items() if module is not None}


def _free_name(roots: Mapping[str, nn.Module]) -> str:
    taken = {name for module in roots.values() for name in getattr(module, "peft_config", {})}
    return next(name for i in range(len(taken) + 1) if (name := f"lora_{i}") not in taken)
