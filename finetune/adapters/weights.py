"""The learned low-rank weights as plain values, between the adapter and the file formats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class LayerWeights:
    """The update of one layer: `scale · up · down`, with `scale = alpha / rank`.

    With a magnitude m (DoRA) the layer's weight becomes `m · V / ‖V‖` with `V = W + scale · up · down`
    and the norm taken for each output (arXiv:2402.09353, equation 5).

    Attributes:
        down: `[rank, in]`, or `[rank, in, kh, kw]` for a convolution.
        up: `[out, rank]`, or `[out, rank, 1, 1]`.
        alpha: The update's strength, in the files' convention alpha/rank (rsLoRA is folded in).
        magnitude: `[out]`, or None for plain LoRA.
    """

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @property
    def rank(self) -> int:
        """The rank of the update."""
        return int(self.down.shape[0])

    @property
    def scale(self) -> float:
        """What `up · down` is multiplied by."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class LoRAWeights:
    """A whole LoRA.

    Attributes:
        layers: By part ("unet", "text_encoder", "text_encoder_2") and the layer's name in that part, as
            diffusers and transformers name it in files (text layers begin with "text_model.").
        metadata: The text metadata of the file it was read from.
    """

    layers: Mapping[tuple[str, str], LayerWeights]
    metadata: Mapping[str, str] = field(default_factory=dict)

    def parts(self) -> dict[str, dict[str, LayerWeights]]:
        """The layers by part, then by layer name; parts without layers are left out."""
        grouped: dict[str, dict[str, LayerWeights]] = {}
        for (part, layer), weights in self.layers.items():
            grouped.setdefault(part, {})[layer] = weights
        return grouped
