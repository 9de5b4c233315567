"""LoRA and DoRA: a product of two narrow matrices.

Hu et al. 2021, arXiv:2106.09685; DoRA arXiv:2402.09353; convolutions as in LoCon (LyCORIS,
arXiv:2309.14859).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn

from finetune.adapters import peft_inside
from finetune.adapters.matrices import Shape, decomposed, factored, joined
from finetune.adapters.updates import Update, kaiming
from finetune.adapters.weights import LayerWeights, Row, Strength
from finetune.config import LoRASection
from finetune.kernels import Swap, with_update


@dataclass(frozen=True)
class LowRank(LayerWeights):
    """The update of one layer: `scale · up · down`, with `scale = alpha / rank`.

    With a magnitude m (DoRA) the layer's weight becomes `m · V / ‖V‖` with `V = W + scale · up · down`
    and one norm per output (arXiv:2402.09353, equation 5).

    Attributes:
        down: `[rank, in]`, or `[rank, in, kh, kw]` for a convolution.
        up: `[out, rank]`, or `[out, rank, 1, 1]`.
        alpha: The update's strength, in the files' convention alpha/rank (rsLoRA is folded in).
        magnitude: `[out]`, or None for plain LoRA.
    """

    algorithm = "lora"
    suffixes = {  # noqa: RUF012 - a ClassVar of the base
        ".lora_down.weight": "down",
        ".lora_up.weight": "up",
        ".lora_mid.weight": "mid",
        ".dora_scale": "dora_scale",
        ".lora_A.weight": "down",
        ".lora_B.weight": "up",
        ".lora_A.default.weight": "down",
        ".lora_B.default.weight": "up",
        ".lora_magnitude_vector": "magnitude",
        ".lora_magnitude_vector.weight": "magnitude",
        ".lora_magnitude_vector.default.weight": "magnitude",
        ".lora.down.weight": "down",
        ".lora.up.weight": "up",
        ".lora_linear_layer.down.weight": "down",
        ".lora_linear_layer.up.weight": "up",
        "_lora.down.weight": "down",
        "_lora.up.weight": "up",
    }
    leading = frozenset({"down"})
    flat = frozenset({"magnitude", "dora_scale"})

    down: Tensor
    up: Tensor
    alpha: float
    magnitude: Tensor | None = None

    @classmethod
    def from_file(cls, row: Row, shape: Shape, strength: Strength) -> LowRank:
        """As `LayerWeights.from_file`."""
        if missing := {"down", "up"} - row.keys():
            raise ValueError(f"lora_{missing.pop()} is missing")
        down, up = row["down"], row["up"]
        if "mid" in row:
            # A convolution in three factors (LoCon with Tucker): up(1x1) · mid(kxk) · down(1x1).
            down = joined("mnkl,ni->mikl", row["mid"], down.flatten(1))
        down, up = _as_layer(down, len(shape)), _as_layer(up, len(shape))
        rank = down.shape[0]
        expected = (rank, *shape[1:]), (shape[0], rank, *[1] * (len(shape) - 2))
        if (tuple(down.shape), tuple(up.shape)) != expected:
            raise ValueError(f"has shapes {tuple(down.shape)} and {tuple(up.shape)} for a layer of {shape}")
        alpha = float(row["alpha"]) if "alpha" in row else strength.alpha(rank)
        return cls(down, up, alpha, _magnitude(row, shape))

    @property
    def rank(self) -> int:
        """The rank of the update."""
        return int(self.down.shape[0])

    @property
    def shape(self) -> Shape:  # type: ignore[override]
        """The shape of the layer's weight."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def low_rank_size(self) -> int:
        """The rank of `low_rank()`."""
        return self.rank

    def low_rank(self) -> LowRank:
        """Itself."""
        return self

    def delta(self) -> Tensor:
        """The change of the weight, of the weight's shape, without the magnitude."""
        return (self.scale * self.up.flatten(1) @ self.down.flatten(1)).view(self.shape)

    def change(self, weight: Tensor) -> Tensor:
        """As `LayerWeights.change`, with the magnitude."""
        if self.magnitude is None:
            return super().change(weight)
        magnitude = per_output(self.magnitude, weight.ndim)
        return decomposed(weight, self.delta().to(weight), magnitude.to(weight)) - weight

    @property
    def depends_on_weight(self) -> bool:
        """Whether there is a magnitude."""
        return self.magnitude is not None

    def factors(self) -> dict[str, Tensor]:
        """`lora_B` and `lora_A`."""
        return {"lora_B.weight": self.up, "lora_A.weight": self.down}

    def variant(self) -> dict[str, Any]:
        """DoRA's layers differ."""
        return {"use_dora": True} if self.magnitude is not None else {}

    def kohya(self, common: float) -> dict[str, Tensor]:
        """As `LayerWeights.kohya`, with `common` as alpha, for which `lora_up` makes up.

        diffusers misreads files with several alphas, since it looks them up by names from before PEFT.
        """
        named = {
            "lora_down.weight": self.down,
            "lora_up.weight": self.up * (self.alpha / common),
            "alpha": torch.tensor(common),
        }
        if self.magnitude is not None:
            named["dora_scale"] = per_output(self.magnitude, self.down.ndim)
        return named

    def lycoris(self, section: LoRASection) -> dict[str, str]:
        """As `LayerWeights.lycoris`; to kohya's scripts, DoRA is a LyCORIS network."""
        return {"algo": "lora", "dora_wd": "True", "wd_on_output": "True"} if section.dora else {}

    def peft(self, part: str) -> dict[str, Tensor]:
        """As `LayerWeights.peft`."""
        named = super().peft(part)
        if self.magnitude is not None:
            magnitude = self.magnitude.view(1, -1, 1, 1) if self.down.ndim == 4 else self.magnitude
            # diffusers leaves text encoders to transformers, which requires the full name from version 5 on.
            named["lora_magnitude_vector" if part == "unet" else "lora_magnitude_vector.weight"] = magnitude
        return named

    @classmethod
    def peft_settings(cls, rank: int, layers: Iterable[LayerWeights], section: LoRASection) -> dict[str, Any]:
        """As `LayerWeights.peft_settings`."""
        return {"lora_alpha": rank, "use_dora": any(layer.variant() for layer in layers)}


class LowRankUpdate(Update):
    """LoRA, and DoRA."""

    config = LoraConfig
    values = LowRank
    alpha_name = "lora_alpha"

    @classmethod
    def chosen(cls, section: LoRASection) -> dict[str, Any]:
        """As `Update.chosen`."""
        return {"use_rslora": section.rslora, "use_dora": section.dora}

    @property
    def down(self) -> nn.Parameter:
        """A: `[rank, in]` or `[rank, in, kh, kw]`."""
        return self.parameters()["lora_A.weight"]

    @property
    def up(self) -> nn.Parameter:
        """B: `[out, rank]` or `[out, rank, 1, 1]`."""
        return self.parameters()["lora_B.weight"]

    @property
    def magnitude(self) -> nn.Parameter | None:
        """DoRA's magnitude, `[out]` or `[1, out, 1, 1]`; None for plain LoRA."""
        return self.parameters().get("lora_magnitude_vector")

    @property
    def reads_weight(self) -> bool:
        """DoRA takes its norm."""
        return self.magnitude is not None

    def parameters(self) -> dict[str, nn.Parameter]:
        """`lora_A`, `lora_B` and, for DoRA, the magnitude."""
        names = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
        return {names.get(kind, kind): parameter for kind, parameter in super().parameters().items()}

    def start(self, seed: int, layer: str) -> None:
        """Kaiming-uniform A; B is already zero."""
        self.down.data.copy_(kaiming(self.down.shape, seed, f"lora/{layer}"))

    def weights(self, values: Mapping[str, Tensor], alpha: float) -> LowRank:
        """`down`, `up`, the strength and the magnitude."""
        magnitude = values.get("lora_magnitude_vector")
        flat = None if magnitude is None else magnitude.flatten()
        return LowRank(values["lora_A.weight"], values["lora_B.weight"], alpha, flat)

    @torch.no_grad()
    def fill(self, weights: LowRank) -> None:
        """Copies `down`, `up` and the magnitude."""
        self.down.copy_(weights.down)
        self.up.copy_(weights.up)
        if self.magnitude is not None and weights.magnitude is not None:
            self.magnitude.copy_(weights.magnitude.view(self.magnitude.shape))
        for parameter in self.parameters().values():
            parameter.requires_grad_(False)

    def set_dropout(self, dropout: nn.Module) -> None:
        """Replaces the dropout on the input of the low-rank layers."""
        peft_inside.set_dropout(self._layer, self._name, dropout)

    def faster(self) -> Swap | None:
        """As `Update.faster`: for linear layers, without DoRA and dropout."""
        layer, base, name = self._layer, self.base_layer, self._name
        if self.magnitude is not None or not isinstance(base, nn.Linear) or peft_inside.drops(layer, name):
            return None
        plain, down, up = layer.forward, self.down, self.up

        def forward(x: Tensor, *others: Any, **named: Any) -> Any:
            scale = peft_inside.scale_alone(layer, name)
            if scale is None:
                return plain(x, *others, **named)
            return with_update(x, base, down, up, scale)

        return Swap(layer, "forward", forward)

    @torch.no_grad()
    def to_fp32(self) -> None:
        """As `Update.to_fp32`; DoRA's initial magnitude is recomputed."""
        super().to_fp32()
        if self.magnitude is not None:
            # It must be each output's norm in fp32, or the update would change the model from the start.
            weight: Tensor = self.base_layer.weight.float()
            norms = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)))
            self.magnitude.copy_(norms.view_as(self.magnitude))


def as_low_rank(up: Tensor, down: Tensor, scale: float, shape: Shape) -> LowRank:
    """The change `scale · up · down` of a layer's weight as a LoRA.

    Args:
        up: `[out, rank]`.
        down: `[rank, in · kh · kw]`.
        scale: Any number.
        shape: The shape of the weight.
    """
    up = up.view(*up.shape, *[1] * (len(shape) - 2))
    return LowRank(down.view(-1, *shape[1:]).contiguous(), up.contiguous(), scale * down.shape[0])


def as_full_rank(delta: Tensor) -> LowRank:
    """Any change of a weight, `[out, in]` or `[out, in, kh, kw]`, as a LoRA of full rank."""
    return as_low_rank(*factored((delta,)), 1.0, tuple(delta.shape))


def per_output(magnitude: Tensor, dimensions: int) -> Tensor:
    """One number for each output, `[out]`, as `[out, 1, …]`."""
    return magnitude.view(-1, *[1] * (dimensions - 1))


def _as_layer(tensor: Tensor, dimensions: int) -> Tensor:
    # A linear layer and a 1x1 convolution are the same thing, and files may have either.
    if tensor.ndim == 4 and dimensions == 2 and tensor.shape[2:] == (1, 1):
        return tensor.flatten(1)
    return tensor[:, :, None, None] if tensor.ndim == 2 and dimensions == 4 else tensor


def _magnitude(row: Row, shape: Shape) -> Tensor | None:
    tensor = row.get("magnitude", row.get("dora_scale"))
    if tensor is None:
        return None
    if tensor.numel() != shape[0]:
        raise ValueError(f"has {tensor.numel()} DoRA magnitudes for {shape[0]} outputs")
    return tensor.flatten()
