"""What flows from the data to the objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


def moved(value: Tensor, device: torch.device | str) -> Tensor:
    """`value` on `device`.

    To an NVIDIA GPU it goes through pinned memory, so that neither waits for the other. The copy takes its
    place in the GPU's queue, before whatever uses the result.
    """
    if torch.device(device).type != "cuda" or value.device.type != "cpu":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)


@dataclass(frozen=True)
class Conditioning:
    """What the UNet gets besides the noisy latents; opaque to the training core.

    Either `hidden` (text embeddings, when the text encoders are frozen) or `tokens` (when they are
    trained, or for a sampler) is set.

    Attributes:
        tokens: `[B, encoders, T]` int64 token ids, one plane per text encoder.
        hidden: `[B, T, D]` hidden states for cross-attention.
        pooled: `[B, P]` pooled text embedding (SDXL).
        time_ids: `[B, 6]` original size, crop corner, target size in pixels (SDXL).
        control: `[B, 3, H, W]` control picture in [0, 1] (ControlNet).
    """

    tokens: Tensor | None = None
    hidden: Tensor | None = None
    pooled: Tensor | None = None
    time_ids: Tensor | None = None
    control: Tensor | None = None

    def to(self, device: torch.device | str) -> Conditioning:
        """The same values on `device`."""
        return self._each(lambda value: moved(value, device))

    def rows(self, chosen: Tensor) -> Conditioning:
        """The rows that `chosen`, a `[B]` bool mask or an index, selects."""
        return self._each(lambda value: value[chosen])

    def _each(self, change: Callable[[Tensor], Tensor]) -> Conditioning:
        values = ((f.name, getattr(self, f.name)) for f in fields(self))
        return replace(self, **{name: change(value) for name, value in values if value is not None})

    @staticmethod
    def stack(rows: list[Conditioning]) -> Conditioning:
        """Joins conditionings along the batch dimension; all must have the same fields set."""
        names = [f.name for f in fields(Conditioning) if getattr(rows[0], f.name) is not None]
        return Conditioning(**{n: torch.cat([getattr(row, n) for row in rows]) for n in names})


@dataclass(frozen=True)
class Batch:
    """Rows to train on.

    Attributes:
        numbers: The global sample number of each row; every random draw is made from it (P1).
        latents: `[B, C, h, w]` scaled latents (VAE output times the scaling factor).
        conditioning: `B` rows of what else the UNet gets.
        weight: `[B]` weight of each row in the loss; 1 for ordinary rows, λ for prior preservation.
        names: Where each row came from (a file name), for messages.
        preserved: `[B]` bool, always on the CPU: rows on which the model must predict what it predicted
            before training; None if there are none.
        mask: `[B, 1, h, w]` in [0, 1], at the size of the latents: where the loss counts; None for
            everywhere.
    """

    numbers: tuple[int, ...]
    latents: Tensor
    conditioning: Conditioning
    weight: Tensor
    names: tuple[str, ...]
    preserved: Tensor | None = None
    mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def learned(self) -> tuple[bool, ...]:
        """Whether each row shows something new: neither a class picture (a negative number) nor preserved."""
        kept = self.preserved.tolist() if self.preserved is not None else [False] * len(self)
        return tuple(n >= 0 and not k for n, k in zip(self.numbers, kept, strict=True))

    def to(self, device: torch.device | str) -> Batch:
        """The same rows on `device`."""
        return replace(
            self,
            latents=moved(self.latents, device),
            conditioning=self.conditioning.to(device),
            weight=moved(self.weight, device),
            mask=None if self.mask is None else moved(self.mask, device),
        )

    @staticmethod
    def join(batches: Sequence[Batch]) -> Batch:
        """The rows of several batches, one batch after the other.

        Where only some have a mask or preserved rows, the others count everywhere and preserve none.
        """
        nowhere = [torch.zeros(len(b), dtype=torch.bool) for b in batches]
        everywhere = [torch.ones_like(b.latents[:, :1]) for b in batches]
        return Batch(
            numbers=tuple(number for batch in batches for number in batch.numbers),
            latents=torch.cat([batch.latents for batch in batches]),
            conditioning=Conditioning.stack([batch.conditioning for batch in batches]),
            weight=torch.cat([batch.weight for batch in batches]),
            names=tuple(name for batch in batches for name in batch.names),
            preserved=_filled([b.preserved for b in batches], nowhere),
            mask=_filled([b.mask for b in batches], everywhere),
        )

    @staticmethod
    def by_shape(batches: Sequence[Batch]) -> list[Batch]:
        """The rows of several batches, those of one shape together."""
        alike: dict[torch.Size, list[Batch]] = {}
        for batch in batches:
            alike.setdefault(batch.latents.shape[1:], []).append(batch)
        return [Batch.join(own) for own in alike.values()]


def _filled(values: Sequence[Tensor | None], defaults: Sequence[Tensor]) -> Tensor | None:
    """All values concatenated, a default in place of each None; None if all are None."""
    if all(value is None for value in values):
        return None
    return torch.cat([d if v is None else v for v, d in zip(values, defaults, strict=True)])
