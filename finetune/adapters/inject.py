"""PEFT's LoRA layers in a module, each with its own rank and alpha."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer, LoraModel
from torch import Tensor, nn


@dataclass(frozen=True)
class LayerSize:
    """Rank and alpha of the update of one layer."""

    rank: int
    alpha: float


class Update:
    """One adapter's update of one layer, inside PEFT's LoRA layer.

    Args:
        layer: A `peft.tuners.lora.LoraLayer`.
        name: The adapter's name in it.
    """

    def __init__(self, layer: nn.Module, name: str) -> None:
        self._layer: Any = layer  # PEFT's attributes are typed as Tensor | Module
        self._name = name

    @property
    def down(self) -> nn.Parameter:
        """A: `[rank, in]` or `[rank, in, kh, kw]`."""
        weight: nn.Parameter = self._layer.lora_A[self._name].weight
        return weight

    @property
    def up(self) -> nn.Parameter:
        """B: `[out, rank]` or `[out, rank, 1, 1]`."""
        weight: nn.Parameter = self._layer.lora_B[self._name].weight
        return weight

    @property
    def magnitude(self) -> nn.Parameter | None:
        """DoRA's magnitude, `[out]` or `[1, out, 1, 1]`; None for plain LoRA."""
        if self._name not in self._layer.lora_magnitude_vector:
            return None
        weight: nn.Parameter = self._layer.lora_magnitude_vector[self._name].weight
        return weight

    def set_dropout(self, dropout: nn.Module) -> None:
        """Replaces the dropout on the input of the low-rank layers."""
        self._layer.lora_dropout[self._name] = dropout

    def set_scale(self, scale: float) -> None:
        """Multiplies the update by `scale` (not by what was set before)."""
        self._layer.set_scale(self._name, scale)

    def switch(self, on: bool) -> None:
        """Lets the update act, or not."""
        # PEFT's own `enable_adapters` would also freeze the parameters.
        self._layer._disable_adapters = not on

    def merge(self) -> Tensor:
        """Adds the update to the pretrained weight; the layer then acts as a plain one.

        Returns:
            The weight as it was, for `restore`.

        Raises:
            ValueError: If the merged weight is not finite.
        """
        before: Tensor = self._layer.get_base_layer().weight.data
        self._layer.merge(safe_merge=True, adapter_names=[self._name])  # "safe": into a new tensor
        return before

    def restore(self, weight: Tensor) -> None:
        """Undoes `merge` to the bit, given what it returned; also after the layer has been ejected."""
        self._layer.get_base_layer().weight.data = weight
        self._layer.merged_adapters.clear()

    @torch.no_grad()
    def to_fp32(self) -> None:
        """Turns the update to fp32; PEFT gives it the dtype of the layer that it sits on."""
        for parameter in (self.down, self.up):
            parameter.data = parameter.data.float()
        if self.magnitude is not None:
            # Computed anew, for it must be the fp32 norm or the update would not start as the identity.
            self._layer.lora_magnitude_vector[self._name].update_layer(
                base_layer=self._layer.get_base_layer(),
                lora_A=self.down,
                lora_B=self.up,
                scaling=self._layer.scaling[self._name],
            )


def inject(
    module: nn.Module,
    sizes: Mapping[str, LayerSize],
    name: str,
    *,
    dropout: float = 0.0,
    rslora: bool = False,
    dora: bool = False,
) -> dict[str, Update]:
    """Replaces layers of `module` in place with PEFT's LoRA layers around them.

    The new parameters are trainable and fp32, whatever the layers' dtype, and on the layers' device.
    Their values are PEFT's; the global random state is left as found. Adapters that are already there
    go on acting as before.

    Args:
        module: A UNet or a text encoder.
        sizes: By the full name of each `nn.Linear` or `nn.Conv2d` that gets an update.
        name: The adapter's name; several adapters may be in a module.
        dropout: Dropout on the input of the low-rank layers, in [0, 1).
        rslora: Scale by alpha/√rank instead of alpha/rank.
        dora: Train a magnitude of each output too.

    Returns:
        The updates by the names in `sizes`.
    """
    common = Counter(sizes.values()).most_common(1)[0][0]
    # One pattern for all layers of a size: PEFT tries every pattern on every layer.
    others = {
        "^(" + "|".join(re.escape(layer) for layer in sizes if sizes[layer] == size) + ")": size
        for size in set(sizes.values()) - {common}
    }
    config = LoraConfig(
        r=common.rank,
        lora_alpha=common.alpha,  # PEFT says int and computes with floats
        rank_pattern={layer: size.rank for layer, size in others.items()},
        alpha_pattern={layer: size.alpha for layer, size in others.items()},
        target_modules=list(sizes),
        lora_dropout=dropout,
        use_rslora=rslora,
        use_dora=dora,
    )
    # PEFT lets only the newest adapter act and be trained, so what was before is noted and restored.
    active = {layer: list(layer.active_adapters) for layer in _lora_layers(module)}
    trained = {p: p.requires_grad for p in module.parameters()}
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # Several LoRAs on one model are meant to be.
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        LoraModel(module, config, name)
    for layer in _lora_layers(module):
        layer.set_adapter(active.get(layer, []) + [name] * (name in layer.lora_A))
    for parameter, trains in trained.items():
        parameter.requires_grad_(trains)
    updates = {layer: Update(module.get_submodule(layer), name) for layer in sizes}
    for update in updates.values():
        update.to_fp32()
    return updates


def adaptable(module: nn.Module) -> dict[str, nn.Module]:
    """The linear and convolution layers of `module` by name, looking through LoRA layers around them."""
    found: dict[str, nn.Module] = {}
    inside: list[str] = []  # what lies in a LoRA layer is no layer of the model
    for name, layer in module.named_modules():
        if any(name.startswith(outer) for outer in inside[-1:]):
            continue
        if isinstance(layer, LoraLayer):
            inside.append(name + ".")
            found[name] = layer.get_base_layer()
        elif isinstance(layer, nn.Linear | nn.Conv2d):
            found[name] = layer
    return found


def _lora_layers(module: nn.Module) -> list[Any]:
    return [layer for layer in module.modules() if isinstance(layer, LoraLayer)]


def eject(module: nn.Module, name: str | None = None) -> None:
    """Takes updates out of `module` and puts layers without any left back into their places.

    Args:
        module: What `inject` was called with.
        name: The adapter to take out; all of them if None.
    """
    for parent in list(module.modules()):
        for child_name, child in list(parent.named_children()):
            if not isinstance(child, LoraLayer):
                continue
            if name is not None and name in child.lora_A:
                child.delete_adapter(name)
            if name is None or not len(child.lora_A):
                setattr(parent, child_name, child.get_base_layer())
    configs: Any = getattr(module, "peft_config", {})
    for adapter in [name] if name is not None else list(configs):
        configs.pop(adapter, None)
    if not configs and hasattr(module, "peft_config"):
        del module.peft_config
