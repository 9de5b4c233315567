"""All that relies on undocumented behavior of PEFT's layers and models.

Checked with PEFT 0.21.2. `tests/adapters/test_peft_inside.py` says and checks what each function relies on,
and fails if a release changes it.

A layer is a `peft.tuners.tuners_utils.BaseTunerLayer` everywhere here.
"""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import get_pattern_key
from torch import nn


def parameters_of(layer: Any, adapter: str) -> dict[str, nn.Parameter]:
    """The parameters of one adapter in a layer, by PEFT's names: `lora_A`, `hada_w1_a`, `lokr_w2`, ….

    Relies on `adapter_layer_names` listing the attributes that hold them, and on each of these holding,
    by adapter, a parameter or a module with one named `weight`. PEFT has no call that returns them.

    Args:
        layer: PEFT's layer.
        adapter: The adapter's name.
    """
    held = {kind: getattr(layer, kind) for kind in layer.adapter_layer_names}
    own = {kind: holder[adapter] for kind, holder in held.items() if adapter in holder}
    return {kind: part if isinstance(part, nn.Parameter) else part.weight for kind, part in own.items()}


def replace_parameters(layer: Any, adapter: str, parameters: Mapping[str, nn.Parameter]) -> None:
    """Gives an adapter in a LoHa or LoKr layer other factors, whose names and shapes may differ.

    Relies on what `parameters_of` relies on, and on each forward pass of the layer looking up which factors
    exist. PEFT's own `update_layer` factorizes a layer only in its own way.

    Args:
        layer: PEFT's layer.
        adapter: The adapter's name.
        parameters: By PEFT's names.
    """
    for kind in parameters_of(layer, adapter):
        del getattr(layer, kind)[adapter]
    for kind, parameter in parameters.items():
        getattr(layer, kind)[adapter] = parameter


def set_dropout(layer: Any, adapter: str, dropout: nn.Module) -> None:
    """Replaces the dropout on the input of a LoRA's matrices.

    Relies on `lora_dropout` holding it by adapter, and on the layer calling it. PEFT's settings offer only
    `nn.Dropout`, which draws from the global generator.
    """
    layer.lora_dropout[adapter] = dropout


def drops(layer: Any, adapter: str) -> bool:
    """Whether a LoRA has dropout on the input of its matrices.

    Relies on `lora_dropout` holding an `nn.Identity` by adapter where there is none.
    """
    return not isinstance(layer.lora_dropout[adapter], nn.Identity)


def scale_alone(layer: Any, adapter: str) -> float | None:
    """The factor of B·A·x in a LoRA's layer, if nothing else is added to what the wrapped layer computes.

    Relies on `_disable_adapters`, `active_adapters` and `merged` being all that the forward pass checks, and
    on `scaling` holding the factor by adapter.
    """
    if layer._disable_adapters or layer.merged or layer.active_adapters != [adapter]:
        return None
    if isinstance(layer.base_layer, BaseTunerLayer):
        return None
    scale: float = layer.scaling[adapter]
    return scale


def switch(layer: Any, on: bool) -> None:
    """Turns all adapters of a layer on or off.

    Relies on `_disable_adapters` being all that the forward pass checks. PEFT's public `enable_adapters`
    sets it too, but also freezes all parameters and later unfreezes those of every active adapter; undoing
    that would take 0.1 ms per layer, twice in every step that preserves prompts.
    """
    layer._disable_adapters = not on


def without(layer: Any, adapter: str | None) -> Any:
    """A layer with an adapter removed: itself, or the layer it wraps if no other adapter is left.

    Relies on `base_layer` being the wrapped layer, which may be one of PEFT's too (of another kind), and
    on what `parameters_of` relies on. PEFT's `unload` handles one kind of layer, all adapters at once.

    Args:
        layer: Any layer.
        adapter: The adapter's name; all of them if None.
    """
    if not isinstance(layer, BaseTunerLayer):
        return layer
    if adapter is not None and adapter in _adapters_in(layer):
        layer.delete_adapter(adapter)
    inner = without(layer.base_layer, adapter)
    if adapter is None or not _adapters_in(layer):
        return inner
    layer.base_layer = inner
    return layer


def activate(layer: Any, adapters: Collection[str]) -> None:
    """Makes those of `adapters` that a layer holds its active ones, in this order.

    Relies on what `parameters_of` relies on, to leave out those of a layer that it wraps or that wraps it.
    """
    layer.set_adapter([name for name in adapters if name in _adapters_in(layer)])


def _adapters_in(layer: Any) -> set[str]:
    return {name for kind in layer.adapter_layer_names for name in getattr(layer, kind)}


def adapters_on(module: nn.Module) -> list[str]:
    """The names of the adapters that PEFT has put into a module.

    Relies on `peft_config` being a dict by adapter that `inject_adapter_in_model` leaves on the module.
    """
    return list(getattr(module, "peft_config", {}))


def forget(module: nn.Module, adapter: str | None) -> None:
    """Deletes the settings that PEFT keeps on a module for an adapter whose layers are gone.

    Relies on what `adapters_on` relies on. If they stayed, the next adapter would get a warning, or the
    settings of the one that is gone.

    Args:
        module: What the adapter was injected into.
        adapter: Its name; all of them if None.
    """
    configs: Any = getattr(module, "peft_config", None)
    if configs is None:
        return
    for name in [adapter] if adapter is not None else list(configs):
        configs.pop(name, None)
    if not configs:
        del module.peft_config


@contextmanager
def no_second_adapter_warning() -> Iterator[None]:
    """Inside, PEFT does not warn that a module gets a second adapter.

    Relies on the warning's text, since it has no class of its own.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        yield


def without_peft(module: nn.Module) -> dict[str, nn.Parameter]:
    """A module's parameters except its LoRAs', by the names they have without PEFT.

    Relies on PEFT's names of parameters: `base_layer` for the wrapped layer, `lora_…` for its own.
    """
    return {
        name.replace(".base_layer", ""): parameter
        for name, parameter in module.named_parameters()
        if ".lora_" not in name
    }


def by_pattern(patterns: Mapping[str, Any], layer: str, otherwise: Any) -> Any:
    """What `rank_pattern` or `alpha_pattern` says about a layer, as PEFT itself reads it.

    Relies on `get_pattern_key` of `peft.utils.other`: the rule is documented nowhere, and files must mean
    here what they mean to PEFT.

    Args:
        patterns: Values by pattern, from PEFT's settings.
        layer: The layer's name.
        otherwise: The value if no pattern matches.
    """
    return patterns.get(get_pattern_key(list(patterns), layer), otherwise)
