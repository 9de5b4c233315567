"""The average of the trained parameters that previews and exports use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from finetune.config import OptimizerSection, TrainingSection
from finetune.errors import ConfigError


class Average:
    """Keeps an exponential moving average by name, on top of diffusers' `EMAModel`.

    Relies on `EMAModel` (diffusers 0.42) counting its steps in `optimization_step`, which its
    `load_state_dict` could set only along with a copy of everything. `tests/test_inside_libraries.py`
    checks it.

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
        return dict(zip(self._parameters, self._model.state_dict()["shadow_params"], strict=True))

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
        """Inside, the parameters hold the average; afterward their own values again."""
        with _restored(self._parameters):
            self._model.copy_to(self._parameters.values())
            yield


class ScheduleFreeAverage:
    """The average that a schedule-free optimizer keeps (Defazio et al. 2024, arXiv:2405.15682).

    It has no state of its own: the optimizer computes it from the parameters and its latest iterate.

    Args:
        parameters: The trained parameters by name.
        optimizer: Their schedule-free optimizer, in training mode.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], optimizer: Any) -> None:
        self._parameters, self._optimizer = dict(parameters), optimizer

    @property
    def values(self) -> dict[str, Tensor]:
        """The average by name."""
        with self.in_place():
            return {name: p.detach().clone() for name, p in self._parameters.items()}

    def update(self, step: int) -> None:
        """Does nothing: the optimizer's step has done it."""

    def load(self, values: Mapping[str, Tensor]) -> None:
        """Does nothing: the parameters and the optimizer's state are all there is."""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the parameters hold the average; afterward, to the bit, their own values again."""
        with _restored(self._parameters):
            self._optimizer.eval()
            try:
                yield
            finally:
                self._optimizer.train()


def make_average(
    parameters: Mapping[str, nn.Parameter],
    optimizer: torch.optim.Optimizer,
    training: TrainingSection,
    section: OptimizerSection,
) -> Average | ScheduleFreeAverage | None:
    """The average that the settings ask for, or None.

    Args:
        parameters: The trained parameters by name, on their device.
        optimizer: Their optimizer.
        training: Whether there is an exponential moving average.
        section: Which optimizer it is.

    Raises:
        ConfigError: If there would be two.
    """
    check_average(training, section)
    if section.averages:
        return ScheduleFreeAverage(parameters, optimizer)
    return Average(parameters, training.ema_decay) if training.ema else None


def check_average(training: TrainingSection, section: OptimizerSection) -> None:
    """Refuses two averages of the same parameters.

    Raises:
        ConfigError: If the optimizer averages the parameters and an average is asked for.
    """
    if training.ema and section.averages:
        raise ConfigError(
            f"The optimizer {section.name} averages the weights itself; a second average would lag behind.",
            where="training.ema",
            fix="Set training.ema=false, or use optimizer.name=adamw.",
        )


@contextmanager
def _restored(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Restores the values of the parameters afterward."""
    kept = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, parameter in parameters.items():
                parameter.copy_(kept[name])
