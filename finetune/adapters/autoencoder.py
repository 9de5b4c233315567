"""An autoencoder as the trainer trains it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from diffusers import AutoencoderKL
from torch import Tensor, nn

from finetune.adapters.base import ParameterGroup


class Autoencoding(nn.Module):
    """Encodes, draws latents from the posterior and decodes.

    Args:
        vae: The autoencoder, all of whose weights are trained.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and posterior of `pixels`.

        Args:
            pixels: `[B, 3, S, S]` in [-1, 1].
            noise: `[B, C, s, s]` standard normal, of the latents' shape.

        Returns:
            Reconstruction, like `pixels`, and KL divergence per row in nats per latent value, `[B]`.
        """
        posterior = self.vae.encode(pixels).latent_dist
        latents = posterior.mean + posterior.std * noise
        return self.vae.decode(latents).sample, posterior.kl().float() / latents[0].numel()

    def groups(self) -> list[ParameterGroup]:
        """All parameters, as one group."""
        return [ParameterGroup("vae", tuple(self.vae.named_parameters()))]

    def set_samples(self, numbers: Sequence[int], seed: int) -> None:
        """Nothing is drawn inside the model."""

    def enable_gradient_checkpointing(self) -> None:
        """Recomputes activations in the backward pass."""
        self.vae.enable_gradient_checkpointing()

    def faster(self, pack: bool, fuse: bool) -> AbstractContextManager[None]:
        """Nothing is frozen, so nothing can be packed."""
        return nullcontext()
