"""Optimizer steps inside the backward pass, so that the gradients of all weights are never held together."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_AT_ONCE = 64 * 2**20
"""Bytes of gradients that are collected before a step: fewer calls, and hardly more memory."""


class InBackward:
    """Steps `optimizer` during the backward pass, a few parameters at a time.

    A parameter's step is taken, and its gradient freed, when nothing of the backward pass needs the parameter
    any more. So each step must depend on the parameter's own gradient alone: without clipping, which needs
    the norm of all gradients, and without accumulation.

    Args:
        parameters: What `optimizer` trains.
        optimizer: One that steps each parameter that has a gradient by itself.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._waiting: list[nn.Parameter] = []
        self._bytes = 0
        self._norms: list[Tensor] = []
        for parameter in parameters:
            parameter.register_post_accumulate_grad_hook(self._collect)

    def finish(self) -> Tensor:
        """Steps what is left after a backward pass, and returns the norm of its gradient, `[]`."""
        self._step()
        norm: Tensor = torch.stack(self._norms).norm()
        self._norms.clear()
        return norm

    def _collect(self, parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter) and parameter.grad is not None
        self._norms.append(parameter.grad.float().norm())
        self._waiting.append(parameter)
        self._bytes += parameter.grad.nbytes
        if self._bytes >= _AT_ONCE:
            self._step()

    def _step(self) -> None:
        self._optimizer.step()  # only these have gradients
        for parameter in self._waiting:
            parameter.grad = None
        self._waiting.clear()
        self._bytes = 0
