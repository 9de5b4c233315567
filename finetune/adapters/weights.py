"""The learned updates as plain values, between the adapters and the file formats."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from finetune.adapters import peft_inside
from finetune.adapters.matrices import Shape
from finetune.backbones.words import Word

if TYPE_CHECKING:
    from finetune.adapters.algorithms.lora import LowRank
    from finetune.config import LoRASection

Role = str  # what a tensor in a file is: "down", "alpha", "hada_w1_a", …
Row = Mapping[Role, Tensor]


@dataclass(frozen=True)
class Strength:
    """What PEFT's settings in a file say about the strength of one layer's update.

    Attributes:
        layer: Its name, for the patterns in the settings.
        config: The settings of its part; may be empty.
    """

    layer: str
    config: Mapping[str, Any]

    def _value(self, key: str, pattern_key: str) -> float | None:
        if key not in self.config:
            return None
        patterns = self.config.get(pattern_key) or {}
        return float(peft_inside.by_pattern(patterns, self.layer, self.config[key]))

    def alpha(self, rank: int) -> float:
        """Alpha of a LoRA; without settings, the rank, as in diffusers."""
        alpha = self._value("lora_alpha", "alpha_pattern")
        if alpha is None:
            return float(rank)
        return alpha * math.sqrt(rank) if self.config.get("use_rslora") else alpha

    def scale(self) -> float:
        """Scale of any other update: alpha/rank, or 1 without settings."""
        alpha, rank = self._value("alpha", "alpha_pattern"), self._value("r", "rank_pattern")
        return 1.0 if alpha is None or rank is None else alpha / rank


class LayerWeights(ABC):
    """The update of one layer, in fp32, and how files hold it.

    Convolutions are taken as matrices `[out, in · kh · kw]`.

    Attributes:
        algorithm: Its name in `config.algorithms`; one that is not there is read, but never trained, and
            PEFT has no layers for it (`adapters.changes`).
        suffixes: Role of a tensor by the end of its key in a file. (`.alpha` is shared by all.)
        leading: Every update in a file has a tensor with one of these roles.
        flat: The roles of tensors that may have one dimension; all others have two or more.
        alpha: The update's strength, in the files' convention alpha/rank.
        shape: The shape of the layer's weight.
    """

    algorithm: ClassVar[str]
    suffixes: ClassVar[Mapping[str, Role]]
    leading: ClassVar[frozenset[Role]]
    flat: ClassVar[frozenset[Role]] = frozenset()
    alpha: float
    shape: Shape

    @classmethod
    @abstractmethod
    def from_file(cls, row: Row, shape: Shape, strength: Strength) -> Self:
        """The update that is stored in a file.

        Args:
            row: The tensors of one layer by role, finite, fp32.
            shape: The shape of the layer's weight.
            strength: Used if there is no alpha among the tensors.

        Raises:
            ValueError: If tensors are missing or of the wrong shape; the message says so.
        """

    @property
    @abstractmethod
    def rank(self) -> int:
        """What alpha is divided by."""

    @property
    def scale(self) -> float:
        """What the product of the factors is multiplied by."""
        return self.alpha / self.rank

    @property
    @abstractmethod
    def low_rank_size(self) -> int:
        """The rank of `low_rank()`."""

    @abstractmethod
    def low_rank(self) -> LowRank:
        """The same change as a LoRA."""

    @abstractmethod
    def delta(self) -> Tensor:
        """The change of the weight, of the weight's shape."""

    def change(self, weight: Tensor) -> Tensor:
        """The change of a layer whose pretrained weight is `weight`, of its shape, type and device.

        Args:
            weight: Used by DoRA alone, whose change depends on it.
        """
        return self.delta().to(weight)

    @property
    def depends_on_weight(self) -> bool:
        """Whether it is a DoRA, whose change depends on the layer's weight."""
        return False

    @abstractmethod
    def factors(self) -> dict[str, Tensor]:
        """The tensors under PEFT's names, which are LyCORIS's too."""

    def variant(self) -> dict[str, Any]:
        """PEFT's settings, besides rank and alpha, that its layers need to hold this update."""
        return {}

    def kohya(self, common: float) -> dict[str, Tensor]:
        """The tensors as kohya's scripts and LyCORIS name them, `alpha` among them.

        Args:
            common: The most common alpha of the part's layers.
        """
        return {**self.factors(), "alpha": torch.tensor(self.alpha)}

    def lycoris(self, section: LoRASection) -> dict[str, str]:
        """The arguments that name the algorithm in LyCORIS; empty for kohya's own LoRA."""
        return {"algo": self.algorithm}

    def peft(self, part: str) -> dict[str, Tensor]:
        """The tensors as PEFT names them, the strength multiplied into one of them.

        Args:
            part: The part of the model, such as "unet".
        """
        (first, value), *others = self.factors().items()
        return {first: value * self.scale, **dict(others)}

    @classmethod
    def peft_settings(cls, rank: int, layers: Iterable[LayerWeights], section: LoRASection) -> dict[str, Any]:
        """PEFT's settings for `layers`, besides their ranks, with alpha equal to the rank.

        Args:
            rank: The most common rank.
            layers: Layers of this algorithm.
            section: What they were trained with.
        """
        return {"alpha": rank}


@dataclass(frozen=True)
class LoRAWeights:
    """A whole adapter, as a file holds it.

    Attributes:
        layers: By part ("unet", "text_encoder", "text_encoder_2") and the layer's name in that part, as
            diffusers and transformers name it in files (text layers begin with "text_model.").
        metadata: The text metadata of the file it was read from.
        words: New words that were learned with it.
        vectors: Changes of biases and of norms' weights, by part and the parameter's name there.
    """

    layers: Mapping[tuple[str, str], LayerWeights]
    metadata: Mapping[str, str] = field(default_factory=dict)
    words: tuple[Word, ...] = ()
    vectors: Mapping[tuple[str, str], Tensor] = field(default_factory=dict)

    @property
    def has_dora(self) -> bool:
        """Whether any layer's update depends on the layer's weight."""
        return any(layer.depends_on_weight for layer in self.layers.values())

    def parts(self) -> dict[str, dict[str, LayerWeights]]:
        """The layers by part, then by layer name; parts without layers are left out."""
        grouped: dict[str, dict[str, LayerWeights]] = {}
        for (part, layer), weights in self.layers.items():
            grouped.setdefault(part, {})[layer] = weights
        return grouped
