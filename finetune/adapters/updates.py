"""One adapter's update of one layer, inside PEFT's layer."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from finetune.adapters import peft_inside
from finetune.adapters.changes import is_changed
from finetune.adapters.matrices import Shape
from finetune.adapters.weights import LayerWeights
from finetune.config import LoRASection
from finetune.diffusion.random import generator
from finetune.kernels import Swap, weight_shape


class Update(ABC):
    """An update inside one of PEFT's layers.

    Args:
        layer: A `peft.tuners.tuners_utils.BaseTunerLayer`.
        name: The adapter's name in it.
        rank: The rank it was made with.

    Attributes:
        config: The class of PEFT's settings for such updates.
        values: The class of its plain values.
        alpha_name: PEFT's name for alpha.
    """

    config: ClassVar[Any]
    values: ClassVar[type[LayerWeights]]
    alpha_name: ClassVar[str] = "alpha"

    def __init__(self, layer: nn.Module, name: str, rank: int) -> None:
        self._layer: Any = layer  # PEFT's attributes are typed as Tensor | Module
        self._name, self._rank = name, rank

    @classmethod
    def settings(cls, rank: int, alpha: float, **others: Any) -> Any:
        """PEFT's settings: the default rank and alpha, and `others` by PEFT's names."""
        return cls.config(**{"r": rank, cls.alpha_name: alpha}, **others)

    @classmethod
    def chosen(cls, section: LoRASection) -> dict[str, Any]:
        """The recipe's settings by PEFT's names, except rank and alpha."""
        return {}

    @property
    def base_layer(self) -> Any:
        """The layer of the model that is updated, an `nn.Linear` or `nn.Conv2d`."""
        return self._layer.get_base_layer()

    @property
    def shape(self) -> Shape:
        """The shape of the layer's weight."""
        return weight_shape(self.base_layer)

    @property
    def reads_weight(self) -> bool:
        """Whether the layer's weight is used in training besides calling the layer."""
        return True

    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by PEFT's names, in a stable order."""
        return peft_inside.parameters_of(self._layer, self._name)

    @abstractmethod
    def start(self, seed: int, layer: str) -> None:
        """Sets PEFT's initial values, which change nothing yet, by name: adding a layer changes no other.

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
        """Loads learned weights; the parameters are then frozen."""

    def set_scale(self, scale: float) -> None:
        """Multiplies the update by `scale` (not by what was set before)."""
        self._layer.set_scale(self._name, scale)

    def switch(self, on: bool) -> None:
        """Turns the update on or off."""
        peft_inside.switch(self._layer, on)

    def faster(self) -> Swap | None:
        """What computes layer and update at once in training; None if this kind has no such way."""
        return None

    def merge(self) -> Tensor:
        """Adds the update to the pretrained weight; the layer then acts as a plain one.

        Returns:
            The weight as it was, for `restore`.

        Raises:
            ValueError: If the merged weight is not finite.
            RuntimeError: If the weight has a `WeightChange` beside it, which must be merged first.
        """
        if is_changed(self.base_layer, "weight"):
            raise RuntimeError("this layer's weight has a change beside it: merge that first")
        before: Tensor = self.base_layer.weight.data
        self._layer.merge(safe_merge=True, adapter_names=[self._name])  # "safe": into a new tensor
        return before

    def restore(self, weight: Tensor) -> None:
        """Undoes `merge` to the bit, given what it returned; also after the layer has been ejected."""
        if self._layer.merged:
            self._layer.unmerge()  # subtracts, which rounds, so the weight is replaced below
        self.base_layer.weight.data = weight

    def to_fp32(self) -> None:
        """Converts the update to fp32; PEFT gives it the dtype of its layer."""
        for parameter in self.parameters().values():
            parameter.data = parameter.data.float()


class FactorsUpdate(Update):
    """LyCORIS's layers, whose parameters are factors."""

    zero: ClassVar[Sequence[str]]

    @property
    def reads_weight(self) -> bool:
        """The factors alone make the change."""
        return False

    def start(self, seed: int, layer: str) -> None:
        """Kaiming-uniform factors, except one that is already zero."""
        for kind, parameter in self.parameters().items():
            if kind not in self.zero:
                parameter.data.copy_(kaiming(parameter.shape, seed, f"{kind}/{layer}"))

    def fill(self, weights: Any) -> None:
        """Replaces the factors, since files may factorize a layer differently from PEFT."""
        device = self.base_layer.weight.device
        frozen = {
            kind: nn.Parameter(value.to(device, torch.float32, copy=True), requires_grad=False)
            for kind, value in weights.factors().items()
        }
        peft_inside.replace_parameters(self._layer, self._name, frozen)


def kaiming(shape: Sequence[int], seed: int, purpose: str) -> Tensor:
    """Kaiming-uniform values, as PEFT's layers start with, drawn by purpose (P1)."""
    drawn = torch.empty(*shape)
    return nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator(seed, 0, purpose))
