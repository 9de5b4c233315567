"""Puts LoRAs and their kin that were read from files onto a model, each with its own weight."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from finetune.adapters import peft_inside
from finetune.adapters.algorithms import held_by_peft, update_class
from finetune.adapters.changes import WeightChange
from finetune.adapters.inject import LayerSize, eject, inject
from finetune.adapters.updates import Update
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.backbones import Backbone
from finetune.backbones.names import live_text_name
from finetune.backbones.words import AddedWord, Word
from finetune.config.blocks import longest_prefix
from finetune.errors import ConfigError
from finetune.kernels import Quantized

PARTS = ("unet", "text_encoder", "text_encoder_2")
Kind = tuple[str, tuple[tuple[str, Any], ...]]


@dataclass(frozen=True)
class Applied:
    """A LoRA on a model.

    Attributes:
        names: Its names among the adapters of the model, one for each kind of update.
        updates: The update of each layer that PEFT has layers for.
        changes: All others, which act on parameters.
        modules: The parts of the model that have one.
        words: The new words that came with it.
    """

    names: Collection[str]
    updates: Mapping[tuple[str, str], Update]
    changes: Mapping[tuple[str, str], WeightChange]
    modules: Mapping[str, nn.Module]
    words: Sequence[AddedWord]

    def set_scale(self, scale: float, blocks: Mapping[str, float] | None = None) -> None:
        """Sets the weight: 1 as trained, 0 off. New words are not changed by it.

        Args:
            scale: The weight.
            blocks: What it is multiplied by, by prefix of the names in `layers`; the longest match counts.
        """
        for name, update in self._named().items():
            own = longest_prefix(name, blocks or {})
            update.set_scale(scale * (blocks or {})[own] if own is not None else scale)

    @property
    def layers(self) -> Collection[str]:
        """Names of all layers that it changes: those of the UNet, and others with their part before them."""
        return self._named().keys()

    def merge(self) -> Callable[[], None]:
        """Adds the updates to the model's weights and takes the LoRA layers off.

        Returns:
            A function that restores the model's old weights, to the bit.

        Raises:
            ValueError: If a merged weight is not finite; the model is then as before.
            ConfigError: If a weight is quantized; nothing is changed then.
        """
        if any(isinstance(update.base_layer, Quantized) for update in self.updates.values()):
            raise ConfigError(
                "A LoRA cannot be merged into quantized weights.",
                where="model.quantize",
                fix="Load the model without it, or leave the LoRA beside the weights.",
            )
        before: list[tuple[Update | WeightChange, Tensor]] = []

        def restore() -> None:
            for update, weight in before:
                update.restore(weight)
            self._remove_words()

        try:
            with torch.no_grad():
                for update in self._all():
                    before.append((update, update.merge()))
        except ValueError:
            restore()
            raise
        finally:
            self._eject()
        return restore

    def remove(self) -> None:
        """Takes the LoRA off; the model is then as it was before, to the bit."""
        self._eject()
        self._remove_words()

    def _named(self) -> dict[str, Update | WeightChange]:
        changed: dict[tuple[str, str], Update | WeightChange] = {**self.changes, **self.updates}
        return {key if part == "unet" else f"{part}.{key}": one for (part, key), one in changed.items()}

    def _all(self) -> list[Update | WeightChange]:
        return [*self.changes.values(), *self.updates.values()]

    def _eject(self) -> None:
        for change in self.changes.values():
            change.remove()
        for module in self.modules.values():
            for name in self.names:
                eject(module, name)

    def _remove_words(self) -> None:
        for word in reversed(self.words):
            word.remove()


def apply_lora(target: Backbone | Any, weights: LoRAWeights, scale: float = 1.0) -> Applied:
    """Puts a LoRA on a model, in addition to those that are already there.

    The update is computed in fp32 beside the layers, whose weights stay as they are. With a weight of s, what
    PEFT has no layers for acts as s times its change; ComfyUI and Forge do so too.

    Args:
        target: A backbone or a diffusers pipeline; its modules are changed in place.
        weights: From `read_lora` for this model, or from `LoRA.weights`.
        scale: Its weight: 1 as trained, 0 off; may be negative or above 1.

    Raises:
        ConfigError: If the model already knows one of its new words, or quantized layers cannot have such
            updates; nothing is changed then.
        TypeError: If there are new words and the target is not a backbone.
    """
    if weights.words and not isinstance(target, Backbone):
        raise TypeError("new words are added to a Backbone, not to a pipeline")
    roots = target.module_roots() if isinstance(target, Backbone) else _parts(target)
    _check_quantized(roots, weights)
    words = _add_words(target, weights.words)
    names: dict[Kind, str] = {}
    updates: dict[tuple[str, str], Update] = {}
    for part, layers in weights.parts().items():
        held = {key: layer for key, layer in layers.items() if held_by_peft(layer)}
        for kind in dict.fromkeys(map(_kind, held.values())):
            name = names.setdefault(kind, _free_name(roots, names.values()))
            chosen = {key: layer for key, layer in held.items() if _kind(layer) == kind}
            injected = _inject(roots[part], part, chosen, name, kind)
            updates |= {(part, key): update for key, update in injected.items()}
    for key, update in updates.items():
        update.fill(weights.layers[key])
    modules = {part: roots[part] for part, _ in (*weights.layers, *weights.vectors)}
    applied = Applied(list(names.values()), updates, _changes(roots, weights), modules, words)
    applied.set_scale(scale)
    return applied


def _add_words(target: Any, words: Sequence[Word]) -> list[AddedWord]:
    added: list[AddedWord] = []
    try:
        for word in words:
            added.append(AddedWord(target, word))
    except ConfigError:
        for before in reversed(added):
            before.remove()
        raise
    return added


def _kind(layer: LayerWeights) -> Kind:
    """The algorithm and its variant, which all layers of one PEFT adapter share."""
    return layer.algorithm, tuple(layer.variant().items())


def _inject(
    module: nn.Module, part: str, layers: Mapping[str, LayerWeights], name: str, kind: Kind
) -> dict[str, Update]:
    """Layers of one kind in one part of the model, by their names in files."""
    algorithm, variant = kind
    live = {key if part == "unet" else live_text_name(module, key): key for key in layers}
    sizes = {own: LayerSize(layers[key].rank, layers[key].alpha) for own, key in live.items()}
    injected = inject(module, sizes, name, update_class(algorithm), **dict(variant))
    return {live[own]: update for own, update in injected.items()}


def _check_quantized(roots: Mapping[str, nn.Module], weights: LoRAWeights) -> None:
    for (part, name), layer in weights.layers.items():
        if held_by_peft(layer) or not isinstance(_layer(roots[part], part, name), Quantized):
            continue
        raise ConfigError(
            f"The LoRA changes the weight of {name} by no product of two matrices, and so not beside a "
            "quantized one.",
            where="model.quantize",
            fix="Load the model without it, or convert it: finetune export LORA --to plain-lora -o FILE.",
        )


def _layer(root: nn.Module, part: str, name: str) -> nn.Module:
    """A layer by its name in files, without PEFT's around it."""
    layer = root.get_submodule(name if part == "unet" else live_text_name(root, name))
    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer


def _changes(roots: Mapping[str, nn.Module], weights: LoRAWeights) -> dict[tuple[str, str], WeightChange]:
    changes: dict[tuple[str, str], Callable[[Tensor], Tensor]] = {
        (part, f"{name}.weight"): layer.change
        for (part, name), layer in weights.layers.items()
        if not held_by_peft(layer)
    }
    changes |= {key: vector.to for key, vector in weights.vectors.items()}
    made = {}
    for (part, parameter), change in changes.items():
        name, _, kind = parameter.rpartition(".")
        made[part, parameter] = WeightChange(_layer(roots[part], part, name), kind, change)
    return made


def _parts(pipeline: Any) -> dict[str, nn.Module]:
    found = {part: getattr(pipeline, part, None) for part in PARTS}
    return {part: module for part, module in found.items() if module is not None}


def _free_name(roots: Mapping[str, nn.Module], others: Collection[str]) -> str:
    taken = {name for module in roots.values() for name in peft_inside.adapters_on(module)} | set(others)
    return next(name for i in range(len(taken) + 1) if (name := f"lora_{i}") not in taken)
