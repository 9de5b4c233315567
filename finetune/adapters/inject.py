"""PEFT's layers in a module, each with its own rank and alpha."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from peft import inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from finetune.adapters import peft_inside
from finetune.adapters.updates import Update

UpdateT = TypeVar("UpdateT", bound=Update)


@dataclass(frozen=True)
class LayerSize:
    """Rank and alpha of the update of one layer."""

    rank: int
    alpha: float


def inject(
    module: nn.Module, sizes: Mapping[str, LayerSize], name: str, kind: type[UpdateT], **settings: Any
) -> dict[str, UpdateT]:
    """Replaces layers of `module` in place with PEFT's layers around them.

    The new parameters are trainable and fp32, whatever the layers' dtype, and on the layers' device.
    Their values are PEFT's; the global random state is left as found. Adapters that are already there
    keep acting as before.

    Args:
        module: A UNet or a text encoder.
        sizes: By the full name of each `nn.Linear` or `nn.Conv2d` that gets an update, at least one.
        name: The adapter's name; several adapters may be in a module.
        kind: The kind of update.
        settings: Further settings by PEFT's names, e.g. `use_dora`.

    Returns:
        The updates by the names in `sizes`.
    """
    common = Counter(sizes.values()).most_common(1)[0][0]
    # One pattern for all layers of a size: PEFT tries every pattern on every layer.
    others = {
        "^(" + "|".join(re.escape(layer) for layer in sizes if sizes[layer] == size) + ")": size
        for size in set(sizes.values()) - {common}
    }
    config = kind.settings(
        common.rank,
        common.alpha,  # annotated as int, but PEFT computes with floats
        rank_pattern={layer: size.rank for layer, size in others.items()},
        alpha_pattern={layer: size.alpha for layer, size in others.items()},
        target_modules=list(sizes),
        **settings,
    )
    # PEFT makes only the newest adapter active and trainable, so the state before is kept and restored.
    active = {layer: list(layer.active_adapters) for layer in _tuned_layers(module)}
    trained = {p: p.requires_grad for p in module.parameters()}
    with torch.random.fork_rng(devices=[]), peft_inside.no_second_adapter_warning():
        inject_adapter_in_model(config, module, name)
    for layer in _tuned_layers(module):
        peft_inside.activate(layer, [*active.get(layer, []), name])
    for parameter, trains in trained.items():
        parameter.requires_grad_(trains)
    updates = {layer: kind(module.get_submodule(layer), name, size.rank) for layer, size in sizes.items()}
    for update in updates.values():
        update.to_fp32()
    return updates


def adaptable(module: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolution layers of `module` by name, looking through PEFT's layers around them."""
    found: dict[str, nn.Module] = {}
    inside = None  # the prefix of what is inside one of PEFT's layers, and so is not a layer of the model
    for name, layer in module.named_modules():
        if inside is not None and name.startswith(inside):
            continue
        if isinstance(layer, BaseTunerLayer):
            inside = name + "."
            found[name] = layer.get_base_layer()
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            found[name] = layer
    return found


def norms(module: nn.Module) -> dict[str, nn.Module]:
    """The norms of `module` by name."""
    kinds = nn.GroupNorm | nn.LayerNorm
    return {name: part for name, part in module.named_modules() if isinstance(part, kinds)}


def eject(module: nn.Module, name: str | None = None) -> None:
    """Removes updates from `module` and puts the original layers back where none is left.

    Args:
        module: What `inject` was called with.
        name: The adapter to remove; all of them if None.
    """
    for parent in list(module.modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(parent, child_name, peft_inside.without(child, name))
    peft_inside.forget(module, name)


def _tuned_layers(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, BaseTunerLayer)]
