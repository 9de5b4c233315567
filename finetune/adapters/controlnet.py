"""ControlNet: a branch beside the frozen UNet that makes it follow a control picture.

Zhang et al. 2023, arXiv:2302.05543. The branch is a copy of the UNet's encoder behind zero convolutions;
with a rank, only low-rank updates of the copy are trained (Control-LoRA, stabilityai/control-lora).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from finetune.adapters import peft_inside
from finetune.adapters.algorithms.lora import LowRankUpdate
from finetune.adapters.base import Adapter, ParameterGroup
from finetune.adapters.inject import LayerSize, adaptable, inject
from finetune.adapters.matrices import full_rank
from finetune.adapters.updates import Update
from finetune.backbones.controlnet import new_branch, read_branch
from finetune.config import ControlNetSection
from finetune.diffusion.batch import Conditioning

if TYPE_CHECKING:
    from finetune.backbones import Backbone

ROOT = "controlnet."
_ZEROS_AND_EMBEDDING = "controlnet_"  # what diffusers' names of these parts begin with


class ControlNet(Adapter):
    """Trains a ControlNet branch, which at first changes nothing; the model itself is never changed.

    Args:
        backbone: The pretrained model.
        section: Whether the branch is new or an existing one, and whether all of it or low-rank updates
            are trained.
        seed: Seed of the initial weights, which depend on nothing else.

    Raises:
        WeightsError: If the ControlNet to start from cannot be read or was made for another model.
    """

    def __init__(self, backbone: Backbone, section: ControlNetSection, seed: int = 0) -> None:
        super().__init__(backbone, trains_text=False)
        self.section = section
        backbone.unet.requires_grad_(False)
        if section.start is not None:
            self.branch = read_branch(section.start, backbone).to(backbone.device)
        else:
            self.branch = new_branch(backbone, seed, shared=section.rank is not None)
        if section.weights == "bf16":
            self.branch.bfloat16()
        self._updates: dict[str, LowRankUpdate] = {}
        if section.rank is not None:
            self._updates = self._inject(section.rank, seed)
        for parameter in self.trained().values():
            parameter.requires_grad_(True)

    def _inject(self, rank: int, seed: int) -> dict[str, LowRankUpdate]:
        layers = {
            name: layer
            for name, layer in adaptable(self.branch).items()
            # The first convolution stays as it is, as in `targets.CONVOLUTIONS`.
            if not name.startswith(_ZEROS_AND_EMBEDDING) and name != "conv_in"
        }
        shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}  # type: ignore[arg-type]
        ranks = {name: min(rank, full_rank(shape)) for name, shape in shapes.items()}
        sizes = {name: LayerSize(r, r) for name, r in ranks.items()}  # files have no alpha
        updates = inject(self.branch, sizes, "default", LowRankUpdate)
        for name, update in updates.items():
            update.start(seed, ROOT + name)
        return updates

    def trained(self) -> dict[str, nn.Parameter]:
        """The branch's weights, named "controlnet." plus diffusers' names.

        With a rank, the updates take the place of the copied weights.
        """
        own: dict[str, nn.Parameter] = dict(self.branch.named_parameters())
        if self._updates:
            own = {name: p for name, p in own.items() if name.startswith(_ZEROS_AND_EMBEDDING)}
            for name, update in self._updates.items():
                own |= {f"{name}.{kind}": parameter for kind, parameter in update.parameters().items()}
        return {ROOT + name: parameter for name, parameter in own.items()}

    def groups(self) -> list[ParameterGroup]:
        """All trained parameters, as one group."""
        return [ParameterGroup("controlnet", tuple(self.trained().items()))]

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """What the UNet predicts with the branch beside it.

        Args:
            noisy_latents: `[B, C, h, w]` scaled latents with noise.
            timesteps: `[B]` int64.
            conditioning: `B` rows with control pictures.

        Returns:
            `[B, C, h, w]`.
        """
        return self.backbone.predict(noisy_latents, timesteps, conditioning, self.branch)

    def switched_off(self) -> AbstractContextManager[None]:
        """Does nothing: the model itself is unchanged."""
        return nullcontext()

    def enable_gradient_checkpointing(self) -> None:
        """Recomputes activations of the branch and of the UNet's decoder in the backward pass."""
        super().enable_gradient_checkpointing()
        self.branch.enable_gradient_checkpointing()

    def layer_updates(self) -> Iterable[Update]:
        """As `Adapter.layer_updates`."""
        return self._updates.values()

    def weights(self) -> dict[str, Tensor]:
        """The branch as plain weights, updates merged: fp32, on the CPU, by diffusers' names."""
        merged = {
            name: parameter.detach().to("cpu", torch.float32, copy=True)
            for name, parameter in peft_inside.without_peft(self.branch).items()
        }
        for layer, (up, down) in self.updates().items():
            weight = merged[f"{layer}.weight"]
            weight += (up.flatten(1) @ down.flatten(1)).view_as(weight)
        return merged

    def updates(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Up `[out, rank]` and down `[rank, in]` of each layer, fp32 on the CPU; empty without a rank.

        Those of convolutions also have the kernel's dimensions.
        """
        return {
            name: (update.up.detach().float().cpu(), update.down.detach().float().cpu())
            for name, update in self._updates.items()
        }
