"""Changes of weights that PEFT's layers cannot hold: full differences, biases, norms, DoRA by input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class WeightChange:
    """A parameter W acts as `W + scale · change(W)`, computed in fp32; W itself stays as it is.

    Args:
        module: The module that has the parameter.
        name: The parameter's name in it, such as "weight".
        change: What W changes by, from W in fp32; of its shape.
    """

    def __init__(self, module: nn.Module, name: str, change: Callable[[Tensor], Tensor]) -> None:
        self._module, self._name, self._added = module, name, _Added(change)
        # "unsafe" leaves out a trial run, which would compute the change even if it is merged at once.
        parametrize.register_parametrization(module, name, self._added, unsafe=True)

    def set_scale(self, scale: float) -> None:
        """Multiplies the change by `scale` (not by what was set before)."""
        self._added.scale = scale

    def merge(self) -> Tensor:
        """Adds the change to the weight, and takes it off.

        Returns:
            The weight as it was, for `restore`.

        Raises:
            ValueError: If the merged weight is not finite; it is then as before.
        """
        before = self._parameter().data
        self._parameter().data = added(self._added.change, self._added.scale, before)
        self.remove()
        return before

    def restore(self, weight: Tensor) -> None:
        """Undoes `merge` to the bit, given what it returned."""
        self._parameter().data = weight

    def remove(self) -> None:
        """Takes the change off, if it is on; other changes of the parameter stay."""
        on = self._on()
        if self._added not in on:
            return
        if len(on) == 1:
            parametrize.remove_parametrizations(self._module, self._name, leave_parametrized=False)
        else:
            del on[list(on).index(self._added)]

    def _on(self) -> Any:
        module: Any = self._module
        return module.parametrizations[self._name] if is_changed(module, self._name) else []

    def _parameter(self) -> nn.Parameter:
        on = self._on()
        parameter: nn.Parameter = on.original if len(on) else getattr(self._module, self._name)
        return parameter


class _Added(nn.Module):
    """The parametrization."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = 1.0
        self._change = change
        self._known: Tensor | None = None

    def change(self, weight: Tensor) -> Tensor:
        return self._change(weight.detach().float())

    def forward(self, weight: Tensor) -> Tensor:
        if self._known is None or self._known.device != weight.device:
            self._known = self.change(weight)  # once: what a DoRA adds takes a norm over the whole weight
        return _sum(weight, self._known, self.scale)


def added(change: Callable[[Tensor], Tensor], scale: float, weight: Tensor) -> Tensor:
    """A weight with `scale` times its change added to it, computed in fp32, in the weight's own type.

    Raises:
        ValueError: If it is not finite.
    """
    merged = _sum(weight, change(weight), scale)
    if not torch.isfinite(merged).all():
        raise ValueError("a merged weight is not finite")
    return merged


def _sum(weight: Tensor, change: Tensor, scale: float) -> Tensor:
    return (weight.float() + scale * change).to(weight.dtype)


def is_changed(module: nn.Module, name: str | None = None) -> bool:
    """Whether a parameter of a module, or any of them, has a change beside it."""
    return parametrize.is_parametrized(module, name)
