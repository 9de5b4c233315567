"""DoRA beyond PEFT's: magnitudes by input, and those of a LoHa or LoKr. Read, never trained.

DoRA, arXiv:2402.09353; LyCORIS's `weight_decompose` with `wd_on_output` true or false.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from finetune.adapters.algorithms.lora import LowRank, per_output
from finetune.adapters.matrices import Shape, decomposed
from finetune.adapters.weights import LayerWeights, Row, Strength
from finetune.config import LoRASection


@dataclass(frozen=True)
class Decomposed(LayerWeights):
    """The layer's weight becomes `m · V / ‖V‖` with `V = W + inner.delta()`; see `matrices.decomposed`.

    Attributes:
        inner: The change of the direction, without magnitudes.
        magnitude: m: `[out, 1, …]`, or `[1, in, …]` by input, of as many dimensions as the weight.
    """

    algorithm = "decomposed"

    inner: LayerWeights
    magnitude: Tensor

    @classmethod
    def from_file(cls, row: Row, shape: Shape, strength: Strength) -> Decomposed:
        """Files have no tensors of its own: see `around`."""
        raise NotImplementedError

    @classmethod
    def around(cls, inner: LayerWeights, scale: Tensor) -> Decomposed:
        """The update with a file's `dora_scale`.

        Raises:
            ValueError: If it has another size than the layer.
        """
        by_input, dimensions = is_by_input(scale), len(inner.shape)
        wanted, side = (inner.shape[1], "inputs") if by_input else (inner.shape[0], "outputs")
        if scale.numel() != wanted:
            raise ValueError(f"has {scale.numel()} DoRA magnitudes for {wanted} {side}")
        magnitude = per_output(scale.flatten(), dimensions)
        return cls(inner, magnitude.transpose(0, 1) if by_input else magnitude)

    @property
    def alpha(self) -> float:  # type: ignore[override]
        """The strength of the change of the direction."""
        return self.inner.alpha

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """The shape of the layer's weight."""
        return self.inner.shape

    @property
    def rank(self) -> int:
        """That of the change of the direction."""
        return self.inner.rank

    @property
    def low_rank_size(self) -> int:
        """The rank that `change` may have."""
        return min(self.shape[0], self.delta().flatten(1).shape[1])

    def low_rank(self) -> LowRank:
        """There is none without the layer's weight.

        Raises:
            ValueError: Always.
        """
        raise ValueError("what a DoRA changes depends on the layer's weight")

    def delta(self) -> Tensor:
        """The change of the direction, of the weight's shape, without the magnitude."""
        return self.inner.delta()

    def change(self, weight: Tensor) -> Tensor:
        """As `LayerWeights.change`."""
        return decomposed(weight, self.delta().to(weight), self.magnitude.to(weight)) - weight

    @property
    def depends_on_weight(self) -> bool:
        """Always."""
        return True

    def factors(self) -> dict[str, Tensor]:
        """As `LayerWeights.factors`, of the change of the direction."""
        return self.inner.factors()

    def kohya(self, common: float) -> dict[str, Tensor]:
        """As `LayerWeights.kohya`."""
        return {**self.inner.kohya(common), "dora_scale": self.magnitude}

    def lycoris(self, section: LoRASection) -> dict[str, str]:
        """As `LayerWeights.lycoris`."""
        arguments: dict[str, Any] = {"algo": self.inner.algorithm, **self.inner.lycoris(section)}
        return arguments | {"dora_wd": "True", "wd_on_output": str(not is_by_input(self.magnitude))}


def is_by_input(scale: Tensor) -> bool:
    """Whether a file's `dora_scale` has one number for each input, `[1, in, …]`."""
    return scale.ndim > 1 and scale.shape[0] == 1 < scale.numel()
