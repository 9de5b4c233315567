"""A full difference: the change of a weight as it is. Read, never trained.

LyCORIS's "full"; ComfyUI and others write it for layers that they do not factorize.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from finetune.adapters.algorithms.lora import LowRank, as_full_rank
from finetune.adapters.matrices import Shape, full_rank
from finetune.adapters.weights import LayerWeights, Row, Strength


@dataclass(frozen=True)
class Difference(LayerWeights):
    """`scale · difference`, with `scale = alpha / rank`, which is 1 in files.

    Attributes:
        difference: Of the weight's shape.
        alpha: The update's strength.
    """

    algorithm = "full"
    suffixes = {".diff": "diff"}  # noqa: RUF012 - a ClassVar of the base
    leading = frozenset({"diff"})

    difference: Tensor
    alpha: float

    @classmethod
    def from_file(cls, row: Row, shape: Shape, strength: Strength) -> Difference:
        """As `LayerWeights.from_file`; like the programs that write it, it knows no alpha."""
        difference = row["diff"]
        # A linear layer and a 1x1 convolution are the same thing, and files may have either.
        if [n for n in difference.shape if n > 1] != [n for n in shape if n > 1]:
            raise ValueError(f"has the shape {tuple(difference.shape)} for a layer of {shape}")
        return cls(difference.reshape(shape), float(full_rank(shape)))

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """The shape of the layer's weight."""
        return tuple(self.difference.shape)

    @property
    def rank(self) -> int:
        """The largest that it can have."""
        return full_rank(self.shape)

    @property
    def low_rank_size(self) -> int:
        """The rank of `low_rank()`."""
        return self.rank

    def low_rank(self) -> LowRank:
        """As a LoRA of full rank."""
        return as_full_rank(self.delta())

    def delta(self) -> Tensor:
        """The change of the weight, of the weight's shape."""
        return self.difference * self.scale

    def factors(self) -> dict[str, Tensor]:
        """LyCORIS's `diff`."""
        return {"diff": self.delta()}

    def kohya(self, common: float) -> dict[str, Tensor]:
        """As `LayerWeights.kohya`, without an alpha."""
        return self.factors()
