"""One adapter's update of one layer, in each of the ways that PEFT has layers for."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig
from torch import Tensor, nn

from finetune.adapters import peft_inside
from finetune.adapters.weights import Hadamard, Kronecker, LayerWeights, LowRank
from finetune.diffusion.random import generator


class Update(ABC):
    """An update inside one of PEFT's layers.

    Args:
        layer: A `peft.tuners.tuners_utils.BaseTunerLayer`.
        name: The adapter's name in it.
        rank: The rank it was made with.

    Attributes:
        config: The class of PEFT's settings for such updates.
    """

    config: ClassVar[Any]
    _alpha: ClassVar[str] = "alpha"

    def __init__(self, layer: nn.Module, name: str, rank: int) -> None:
        self._layer: Any = layer  # PEFT's attributes are typed as Tensor | Module
        self._name, self._rank = name, rank

    @classmethod
    def settings(cls, rank: int, alpha: float, **others: Any) -> Any:
        """PEFT's settings: the usual rank and alpha, and `others` by PEFT's names."""
        return cls.config(**{"r": rank, cls._alpha: alpha}, **others)

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by PEFT's names, in a stable order."""
        return peft_inside.parameters_of(self._layer, self._name)

    @abstractmethod
    def start(self, seed: int, layer: str) -> None:
        """PEFT's own start, which changes nothing, but drawn by name: adding a layer changes no other.

        Args:
            seed: The run's seed.
            layer: The layer's full name.
        """

    @abstractmethod
    def weights(self, values: Mapping[str, Tensor], alpha: float) -> LayerWeights:
        """What has been learned, as plain values.

        Args:
            values: As `parameters`, or a state of them.
            alpha: In the convention alpha/rank.
        """

    @abstractmethod
    def fill(self, weights: Any) -> None:
        """Takes what has been learned; the parameters are then frozen."""

    def set_scale(self, scale: float) -> None:
        """Multiplies the update by `scale` (not by what was set before)."""
        self._layer.set_scale(self._name, scale)

    def switch(self, on: bool) -> None:
        """Lets the update act, or not."""
        peft_inside.switch(self._layer, on)

    def merge(self) -> Tensor:
        """Adds the update to the pretrained weight; the layer then acts as a plain one.

        Returns:
            The weight as it was, for `restore`.

        Raises:
            ValueError: If the merged weight is not finite.
        """
        before: Tensor = self._layer.get_base_layer().weight.data
        self._layer.merge(safe_merge=True, adapter_names=[self._name])  # "safe": into a new tensor
        return before

    def restore(self, weight: Tensor) -> None:
        """Undoes `merge` to the bit, given what it returned; also after the layer has been ejected."""
        if self._layer.merged:
            self._layer.unmerge()  # subtracts, which rounds: what it leaves is put right
        self._layer.get_base_layer().weight.data = weight

    def to_fp32(self) -> None:
        """Turns the update to fp32; PEFT gives it the dtype of the layer that it sits on."""
        for parameter in self.parameters().values():
            parameter.data = parameter.data.float()


class LowRankUpdate(Update):
    """LoRA, and DoRA."""

    config = LoraConfig
    _alpha = "lora_alpha"

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

    def parameters(self) -> dict[str, nn.Parameter]:
        """`lora_A`, `lora_B` and, for DoRA, the magnitude."""
        names = {"lora_A": "lora_A.weight", "lora_B": "lora_B.weight"}
        return {names.get(kind, kind): parameter for kind, parameter in super().parameters().items()}

    def start(self, seed: int, layer: str) -> None:
        """Kaiming-uniform A; B is zero already."""
        self.down.data.copy_(_kaiming(self.down.shape, seed, f"lora/{layer}"))

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

    @torch.no_grad()
    def to_fp32(self) -> None:
        """As `Update.to_fp32`, with the magnitude that an update starts with anew."""
        super().to_fp32()
        if self.magnitude is not None:
            # It must be each output's norm in fp32, or the update would not start as the identity.
            weight: Tensor = self._layer.get_base_layer().weight.float()
            norms = torch.linalg.vector_norm(weight, dim=tuple(range(1, weight.ndim)))
            self.magnitude.copy_(norms.view_as(self.magnitude))


class _Factors(Update):
    """LyCORIS's layers: every parameter is in a dict of its own, by adapter."""

    zero: ClassVar[Sequence[str]]

    def start(self, seed: int, layer: str) -> None:
        """Kaiming-uniform factors; one of them is zero already."""
        for kind, parameter in self.parameters().items():
            if kind not in self.zero:
                parameter.data.copy_(_kaiming(parameter.shape, seed, f"{kind}/{layer}"))

    def fill(self, weights: Hadamard | Kronecker) -> None:
        """Replaces the factors: files divide a layer otherwise than PEFT would."""
        device = self._layer.get_base_layer().weight.device
        frozen = {
            kind: nn.Parameter(value.to(device, torch.float32, copy=True), requires_grad=False)
            for kind, value in factors(weights).items()
        }
        peft_inside.replace_parameters(self._layer, self._name, frozen)


class HadamardUpdate(_Factors):
    """LoHa."""

    config = LoHaConfig
    zero = ("hada_w2_b",)

    def weights(self, values: Mapping[str, Tensor], alpha: float) -> Hadamard:
        """The four factors and the strength."""
        named = {kind.removeprefix("hada_"): value for kind, value in values.items()}
        return Hadamard(**named, alpha=alpha, shape=tuple(self._layer.get_base_layer().weight.shape))


class KroneckerUpdate(_Factors):
    """LoKr."""

    config = LoKrConfig
    zero = ("lokr_w1",)

    def weights(self, values: Mapping[str, Tensor], alpha: float) -> Kronecker:
        """The factors and the strength, which is multiplied into `w1` where both factors are whole."""
        w1 = (values["lokr_w1"],)
        whole = "lokr_w2" in values
        w2 = (values["lokr_w2"],) if whole else (values["lokr_w2_a"], values["lokr_w2_b"])
        shape = tuple(self._layer.get_base_layer().weight.shape)
        if not whole:
            return Kronecker(w1, w2, alpha, shape)
        scale = alpha / self._rank
        return Kronecker((w1[0] * scale,), w2, float(max(w2[0].shape[:2])), shape)


ALGORITHMS: Mapping[str, type[Update]] = {
    "lora": LowRankUpdate,
    "loha": HadamardUpdate,
    "lokr": KroneckerUpdate,
}


def algorithm_of(weights: LayerWeights) -> str:
    """Which of `ALGORITHMS` an update is."""
    return {LowRank: "lora", Hadamard: "loha", Kronecker: "lokr"}[type(weights)]


def factors(weights: Hadamard | Kronecker) -> dict[str, Tensor]:
    """The factors under the names that PEFT and LyCORIS have in common."""
    if isinstance(weights, Hadamard):
        return {f"hada_{kind}": getattr(weights, kind) for kind in ("w1_a", "w1_b", "w2_a", "w2_b")}
    named: dict[str, Tensor] = {}
    for kind, factor in (("lokr_w1", weights.w1), ("lokr_w2", weights.w2)):
        named |= {kind: factor[0]} if len(factor) == 1 else {f"{kind}_a": factor[0], f"{kind}_b": factor[1]}
    return named


def _kaiming(shape: Sequence[int], seed: int, purpose: str) -> Tensor:
    drawn = torch.empty(*shape)
    return nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator(seed, 0, purpose))
