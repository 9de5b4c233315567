"""The exponential moving average of the trained parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn


class Average:
    """Keeps an average by name, on top of diffusers' `EMAModel`.

    Step t keeps `min(decay, t / (9 + t))` of the average and adds the rest from the parameters, so
    that the first steps are forgotten quickly; the very first takes the parameters as they are.

    Args:
        parameters: The trained parameters by name; the average starts as a copy of them.
        decay: Share of the average that a step keeps, in (0, 1).
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], decay: float) -> None:
        self._parameters = dict(parameters)
        self._model = EMAModel(list(parameters.values()), decay=decay, use_ema_warmup=False, foreach=True)

    @property
    def values(self) -> dict[str, Tensor]:
        """The average by name."""
        return dict(zip(self._parameters, self._model.shadow_params, strict=True))

    def update(self, step: int) -> None:
        """Moves the average after optimizer step `step` (counted from 1)."""
        self._model.optimization_step = step - 1  # the step is the trainer's to count
        self._model.step(self._parameters.values())

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Takes over a saved average."""
        for name, shadow in self.values.items():
            shadow.copy_(values[name])

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters hold the average; afterwards again what they held."""
        kept = {name: p.detach().clone() for name, p in self._parameters.items()}
        self._model.copy_to(self._parameters.values())
        try:
            yield
        finally:
            with torch.no_grad():
                for name, parameter in self._parameters.items():
                    parameter.copy_(kept[name])
