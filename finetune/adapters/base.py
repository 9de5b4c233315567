"""What is trained, as the trainer sees it: parameters, a prediction and a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

from finetune.diffusion.batch import Conditioning
from finetune.errors import ConfigError
from finetune.kernels import can_pack, give_back_freed_memory, packed, swapped

if TYPE_CHECKING:
    from finetune.adapters.updates import Update
    from finetune.backbones import Backbone

AdapterT = TypeVar("AdapterT", bound="Adapter")


@dataclass(frozen=True)
class ParameterGroup:
    """Trained parameters that share a learning rate.

    Attributes:
        name: "unet", "text_encoder" (all text encoders together) or "embedding" (new words).
        parameters: Their names (those of `Adapter.state`) and the fp32 parameters.
    """

    name: str
    parameters: tuple[tuple[str, nn.Parameter], ...]


class Adapter(nn.Module, ABC):
    """Attaches to a backbone, lists what is trained, predicts, and returns its state.

    The frozen weights keep the backbone's dtype; the trained parameters are always fp32. The modules
    used in training are submodules (so `to`, `train` and distributed wrappers reach them); the
    backbone itself is not.

    Args:
        backbone: The pretrained model. It is changed in place, so that its pipeline shows what has
            been learned so far.
        trains_text: Whether the text encoders are trained too.
    """

    backbone: Backbone

    def __init__(self, backbone: Backbone, *, trains_text: bool) -> None:
        super().__init__()
        object.__setattr__(self, "backbone", backbone)
        self.trains_text = trains_text
        self.unet: nn.Module = backbone.unet
        self.text_encoders = nn.ModuleList(backbone.text_encoders if trains_text else ())

    @abstractmethod
    def trained(self) -> dict[str, nn.Parameter]:
        """The trained fp32 parameters by their stable names, in a stable order.

        A name begins with "unet.", "text_encoder.", "text_encoder_2." or "embedding.".
        """

    def forward(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """What the UNet predicts (noise or velocity, depending on the model).

        Args:
            noisy_latents: `[B, C, h, w]` scaled latents with noise.
            timesteps: `[B]` int64.
            conditioning: `B` rows; tokens when the text encoders are trained.

        Returns:
            `[B, C, h, w]`.

        Raises:
            ValueError: If the text encoders are trained but `conditioning` holds precomputed
                embeddings, through which no gradient reaches them.
        """
        if self.trains_text and conditioning.hidden is not None:
            raise ValueError("the text encoders are trained: conditioning must carry tokens, not embeddings")
        return self.backbone.predict(noisy_latents, timesteps, conditioning)

    def switched_off(self) -> AbstractContextManager[None]:
        """Inside, the model predicts as it did before training.

        Raises:
            ConfigError: If this adapter changes the pretrained weights themselves.
        """
        raise ConfigError(
            "Prompts can be preserved only by an adapter that can be switched off.",
            where="data.preserve",
            fix="Leave it empty, or train a LoRA.",
        )

    def predict_untrained(
        self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """What `forward` returned before training, in the precision used for training."""
        dtype = self.backbone.dtype
        mixed = torch.autocast(noisy_latents.device.type, dtype, enabled=dtype != torch.float32)
        with self.switched_off(), mixed:
            return self.backbone.predict(noisy_latents, timesteps, conditioning)

    def groups(self) -> list[ParameterGroup]:
        """The trained parameters of the UNet, the text encoders and new words; empty groups are left out."""
        named: dict[str, list[tuple[str, nn.Parameter]]] = {"unet": [], "text_encoder": [], "embedding": []}
        for name, parameter in self.trained().items():
            root = name.partition(".")[0]
            named[root if root in named else "text_encoder"].append((name, parameter))
        return [ParameterGroup(name, tuple(rows)) for name, rows in named.items() if rows]

    def state(self) -> dict[str, Tensor]:
        """A copy of the trained parameters: fp32, contiguous, on the CPU, the same names each run."""
        return {
            name: parameter.detach().to("cpu", torch.float32, copy=True).contiguous()
            for name, parameter in self.trained().items()
        }

    def set_samples(self, numbers: Sequence[int], seed: int) -> None:
        """Sets which samples the next forward pass holds, for draws inside the model (P1).

        Args:
            numbers: The global sample number of each row.
            seed: The run's seed.
        """

    def enable_gradient_checkpointing(self) -> None:
        """Recomputes activations in the backward pass: slower, far less memory."""
        self.unet.enable_gradient_checkpointing()  # type: ignore[operator]
        for encoder in self.text_encoders:
            # Re-entrant checkpointing would drop the gradients, since the token embeddings require none.
            # transformers is renaming the method.
            enable = getattr(
                encoder, "activation_checkpointing_enable", encoder.gradient_checkpointing_enable
            )
            enable({"use_reentrant": False})  # type: ignore[operator]

    @contextmanager
    def faster(self, pack: bool, fuse: bool) -> Iterator[None]:
        """Inside, forward and backward pass are faster; afterward the model is as it was found.

        Args:
            pack: Whether frozen weights are held in the order in which a CPU multiplies them
                (`finetune.kernels.packed`); nothing may read or change them then.
            fuse: Whether layers and their low-rank updates are computed at once (`finetune.kernels.lowrank`).
        """
        fused = [swap for update in self.layer_updates() if (swap := update.faster())] if fuse else []
        with packed(self.packable() if pack else ()), swapped(fused):
            yield
        give_back_freed_memory()  # the weights in their other order

    def layer_updates(self) -> Iterable[Update]:
        """The trained updates of single layers, if there are any."""
        return ()

    def packable(self) -> list[nn.Module]:
        """The frozen layers whose weights are used for nothing but the layers' own products."""
        return [module for module in self.modules() if can_pack(module)]

    def train(self: AdapterT, mode: bool = True) -> AdapterT:
        """Switches to training, except for dropout of the pretrained model.

        Published models set it to 0; otherwise it would draw from the global generator (P1).
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.eval()
        return self
