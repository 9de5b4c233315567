"""LoRA and its kin: small updates of linear layers and convolutions, through PEFT.

Hu et al. 2021, arXiv:2106.09685; rank-stabilized scaling arXiv:2312.03732; DoRA arXiv:2402.09353;
convolutions as in LoCon, LoHa and LoKr from LyCORIS, arXiv:2309.14859. With a placeholder, the
embeddings of a new word are trained too (pivotal tuning, cloneofsimo/lora after arXiv:2106.05744).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from finetune.adapters.algorithms import update_class
from finetune.adapters.algorithms.lora import LowRankUpdate
from finetune.adapters.base import Adapter
from finetune.adapters.dropout import SampleDropout, Samples
from finetune.adapters.embedding import make_word
from finetune.adapters.inject import LayerSize, eject, inject
from finetune.adapters.targets import chosen_sizes
from finetune.adapters.updates import Update
from finetune.adapters.weights import LoRAWeights
from finetune.backbones.words import Word
from finetune.config import LoRASection

if TYPE_CHECKING:
    from finetune.backbones import Backbone

NAME = "default"
Key = tuple[str, str]


class LoRA(Adapter):
    """Attaches trainable updates (LoRA, LoHa or LoKr); at first they change nothing.

    Args:
        backbone: The pretrained model, in any dtype; its layers are wrapped in place.
        section: Which layers, and how.
        seed: Seed of the initial weights, which depend on nothing else.

    Raises:
        ConfigError: If `section` names layers or blocks that the model does not have, or a word that it
            already knows; nothing is changed then.
    """

    def __init__(self, backbone: Backbone, section: LoRASection, seed: int = 0) -> None:
        super().__init__(backbone, trains_text=section.text_encoder or section.placeholder is not None)
        self.section = section
        self._samples = Samples()
        self._sizes: dict[Key, LayerSize] = {}
        self._updates: dict[Key, Update] = {}
        roots = backbone.module_roots()
        self._parts = {part: roots[part] for part in roots if part == "unet" or self.trains_text}
        sizes = chosen_sizes(backbone, section)
        self._word = make_word(backbone, section, seed)
        for part, module in self._parts.items():
            module.requires_grad_(False)
            if part in sizes:
                self._inject(part, module, sizes[part], seed)
        for parameter in self.trained().values():
            parameter.requires_grad_(True)

    def _inject(self, part: str, module: nn.Module, sizes: Mapping[str, LayerSize], seed: int) -> None:
        section, kind = self.section, update_class(self.section.algorithm)
        for name, update in inject(module, sizes, NAME, kind, **kind.chosen(section)).items():
            key = part, self.backbone.file_name(part, name)
            self._sizes[key], self._updates[key] = sizes[name], update
            update.start(seed, ".".join(key))
            if isinstance(update, LowRankUpdate) and section.dropout > 0:
                update.set_dropout(SampleDropout(section.dropout, ".".join(key), self._samples))

    def trained(self) -> dict[str, nn.Parameter]:
        """The factors of each adapted layer (`lora_A`, `lora_B`, …) and the new word's embeddings."""
        named: dict[str, nn.Parameter] = {}
        for key, update in self._updates.items():
            named |= {".".join((*key, kind)): parameter for kind, parameter in update.parameters().items()}
        return named | (self._word.trained() if self._word is not None else {})

    def set_samples(self, numbers: Sequence[int], seed: int) -> None:
        """Sets which samples the next forward pass holds; dropout masks are drawn from them."""
        self._samples.numbers, self._samples.seed = tuple(numbers), seed

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Inside, the model predicts as it did before training."""
        parts: list[Any] = [*self._updates.values(), *([self._word] if self._word is not None else [])]
        for part in parts:
            part.switch(False)
        try:
            yield
        finally:
            for part in parts:
                part.switch(True)

    def packable(self) -> list[nn.Module]:
        """As `Adapter.packable`, without the layers whose weights an update computes with."""
        read = {id(update.base_layer) for update in self._updates.values() if update.reads_weight}
        return [module for module in super().packable() if id(module) not in read]

    def layer_updates(self) -> Iterable[Update]:
        """As `Adapter.layer_updates`."""
        return self._updates.values()

    def weights(self) -> LoRAWeights:
        """What has been learned, the new word too, as plain values for the file formats."""
        state, layers = self.state(), {}
        for key, update in self._updates.items():
            size, name = self._sizes[key], ".".join(key)
            values = {kind: state[f"{name}.{kind}"] for kind in update.parameters()}
            # Files know only alpha/rank, so rsLoRA's alpha is multiplied by √rank.
            alpha = size.alpha * math.sqrt(size.rank) if self.section.rslora else size.alpha
            layers[key] = update.weights(values, alpha)
        word = self.word()
        return LoRAWeights(layers, words=() if word is None else (word,))

    def word(self) -> Word | None:
        """The new word, as plain values for the file formats; None without a placeholder."""
        return None if self._word is None else self._word.value()

    def detach(self) -> None:
        """Removes the updates: the backbone is then, to the bit, what it was before."""
        for module in self._parts.values():
            eject(module)
        if self._word is not None:
            self._word.remove()
