"""What the trainer needs of the parts it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from finetune.adapters.base import ParameterGroup
from finetune.training.watcher import Event

RowsT = TypeVar("RowsT", bound="Rows")
RowsT_co = TypeVar("RowsT_co", bound="Rows", covariant=True)


class Rows(Protocol):
    """A batch, such as `finetune.diffusion.batch.Batch`."""

    @property
    def numbers(self) -> tuple[int, ...]:
        """The global sample number of each row."""

    @property
    def names(self) -> tuple[str, ...]:
        """What each row is called in messages, such as its file."""

    @property
    def learned(self) -> tuple[bool, ...]:
        """Whether each row shows something new; the others keep what the model knew before."""

    def to(self: RowsT, device: torch.device | str) -> RowsT:
        """The same rows on `device`."""


class Source(Protocol[RowsT_co]):
    """Gives the rows of sample numbers; a pure function of them."""

    def batches(self, numbers: Sequence[int]) -> Sequence[RowsT_co]:
        """The rows of these samples, on the CPU: a batch for each shape among them."""


class Trained(Protocol):
    """What the trainer needs of a model besides being a module; every `Adapter` has it."""

    def groups(self) -> list[ParameterGroup]:
        """The trained fp32 parameters."""

    def set_samples(self, numbers: Sequence[int], seed: int) -> None:
        """Called before each forward pass with the samples it holds."""

    def enable_gradient_checkpointing(self) -> None:
        """Called if the settings ask for it."""

    def faster(self, pack: bool, fuse: bool) -> AbstractContextManager[None]:
        """Inside, the model is trained; see `Adapter.faster`."""


Loss = Callable[[Any, RowsT], Tensor]
"""(model, batch) → weighted loss of each row, `[B]` in fp32."""

Hook = Callable[[int], Event | None]
"""Called after a step, with the averaged weights in place and the model in evaluation mode; returns what a
watcher is told."""
