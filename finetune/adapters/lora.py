"""LoRA: low-rank updates of linear layers and convolutions, through PEFT.

Hu et al. 2021, arXiv:2106.09685; rank-stabilised scaling arXiv:2312.03732; DoRA arXiv:2402.09353;
convolutions as in LoCon (LyCORIS, arXiv:2309.14859).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from finetune.adapters.base import Adapter, check_state
from finetune.adapters.dropout import SampleDropout, Samples
from finetune.adapters.inject import LayerSize, Update, eject, inject
from finetune.adapters.targets import text_sizes, unet_sizes
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.config import LoRASection
from finetune.diffusion.random import generator

if TYPE_CHECKING:
    from finetune.backbones import Backbone

NAME = "default"
Key = tuple[str, str]


class LoRA(Adapter):
    """Attaches trainable low-rank updates; at first they change nothing.

    Args:
        backbone: The pretrained model, in any dtype; its layers are wrapped in place.
        section: Which layers, and how.
        seed: Of the initial weights, which depend on nothing else.

    Raises:
        ConfigError: If `section.targets` names layers that the UNet has not; nothing is changed then.
    """

    def __init__(self, backbone: Backbone, section: LoRASection, seed: int = 0) -> None:
        super().__init__(backbone, trains_text=section.text_encoder)
        self.section = section
        self._samples = Samples()
        self._base: dict[Key, Tensor] = {}
        self._sizes: dict[Key, LayerSize] = {}
        self._updates: dict[Key, Update] = {}
        roots = backbone.module_roots()
        self._parts = {part: roots[part] for part in roots if part == "unet" or self.trains_text}
        sizes = {
            part: unet_sizes(module, section) if part == "unet" else text_sizes(module, section)
            for part, module in self._parts.items()
        }
        for part, module in self._parts.items():
            module.requires_grad_(False)
            options = {"rslora": section.rslora, "dora": section.dora}
            for name, update in inject(module, sizes[part], NAME, **options).items():
                key = part, backbone.file_name(part, name)
                self._sizes[key], self._updates[key] = sizes[part][name], update
                self._start(".".join(key), update, seed)

    def _start(self, name: str, update: Update, seed: int) -> None:
        # PEFT's own start (Kaiming-uniform A, zero B), but drawn by name: adding a layer changes no other.
        drawn = torch.empty(update.down.shape)
        nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator(seed, 0, f"lora/{name}"))
        update.down.data.copy_(drawn)
        if self.section.dropout > 0:
            update.set_dropout(SampleDropout(self.section.dropout, name, self._samples))

    def trained(self) -> dict[str, nn.Parameter]:
        """`lora_A`, `lora_B` and, for DoRA, the magnitude of each adapted layer."""
        named: dict[str, nn.Parameter] = {}
        for key, update in self._updates.items():
            name = ".".join(key)
            named[f"{name}.lora_A.weight"] = update.down
            named[f"{name}.lora_B.weight"] = update.up
            if update.magnitude is not None:
                named[f"{name}.lora_magnitude_vector"] = update.magnitude
        return named

    def set_samples(self, numbers: Sequence[int], seed: int) -> None:
        """Tells which samples the next forward pass holds; dropout masks are drawn from them."""
        self._samples.set(numbers, seed)

    @contextmanager
    def switched_off(self) -> Iterator[None]:
        """Inside, the model predicts as it did before training."""
        for update in self._updates.values():
            update.switch(False)
        try:
            yield
        finally:
            for update in self._updates.values():
                update.switch(True)

    def weights(self, state: Mapping[str, Tensor] | None = None) -> LoRAWeights:
        """What has been learned, as plain values for the file formats.

        Args:
            state: Another state of this adapter (an average, a checkpoint) instead of the present one.

        Raises:
            WeightsError: If `state` is not one of this adapter.
        """
        if state is None:
            state = self.state()
        else:
            check_state(self.trained(), state)
        layers = {}
        for key, size in self._sizes.items():
            name = ".".join(key)
            magnitude = state.get(f"{name}.lora_magnitude_vector")
            layers[key] = LayerWeights(
                down=state[f"{name}.lora_A.weight"],
                up=state[f"{name}.lora_B.weight"],
                # Files know only alpha/rank: alpha/√rank becomes an alpha √rank times as large.
                alpha=size.alpha * math.sqrt(size.rank) if self.section.rslora else size.alpha,
                magnitude=None if magnitude is None else magnitude.flatten(),
            )
        return LoRAWeights(layers)

    @torch.no_grad()
    def merge(self) -> None:
        """Adds the updates to the base weights (kept aside for `unmerge`); the layers are then plain ones."""
        for key, update in self._updates.items():
            if key not in self._base:
                self._base[key] = update.merge()

    @torch.no_grad()
    def unmerge(self) -> None:
        """Restores the base weights to the bit; the updates act beside them again."""
        for key, weight in self._base.items():
            self._updates[key].restore(weight)
        self._base.clear()

    def detach(self) -> None:
        """Takes the updates off: the backbone is then, to the bit, what it was before."""
        self.unmerge()
        for module in self._parts.values():
            eject(module)
