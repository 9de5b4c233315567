"""The VAE of the bundled model: its shape, its loss, and the whitening of its latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from finetune.adapters.base import ParameterGroup, check_state
from finetune.diffusion.random import normal
from storybook.pictures import PictureRows, pixels_of

CHANNELS = (32, 48, 64)
LATENT_CHANNELS = 8
L1_WEIGHT, KL_WEIGHT = 0.1, 3e-5


def make_autoencoder() -> AutoencoderKL:
    """An untrained `AutoencoderKL`: 64 px to 16 x 16 latents."""
    return AutoencoderKL(
        sample_size=64,
        latent_channels=LATENT_CHANNELS,
        block_out_channels=CHANNELS,
        layers_per_block=1,
        norm_num_groups=8,
        mid_block_add_attention=False,
        down_block_types=("DownEncoderBlock2D",) * len(CHANNELS),
        up_block_types=("UpDecoderBlock2D",) * len(CHANNELS),
        scaling_factor=1.0,
    )


class Autoencoding(nn.Module):
    """Encodes, draws latents from the posterior and decodes; what the trainer trains.

    Args:
        vae: The autoencoder.
    """

    def __init__(self, vae: AutoencoderKL) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and posterior of `pixels`.

        Args:
            pixels: `[B, 3, S, S]` in [-1, 1].
            noise: `[B, C, S/4, S/4]` standard normal.

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

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Copies parameters in by name."""
        check_state(dict(self.vae.named_parameters()), state)
        self.vae.load_state_dict(state)


class Reconstruction:
    """Squared error, a little absolute error, and a slight pull towards the standard normal.

    The loss of Kingma & Welling 2013 (arXiv:1312.6114) with the small KL weight of Rombach et al.
    2022 (arXiv:2112.10752), without their perceptual and adversarial terms, which would need other
    pretrained networks.

    Args:
        seed: Seed of the posterior's noise.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, model: nn.Module, batch: PictureRows) -> Tensor:
        """The loss of each row, `[B]`."""
        side = batch.pixels.shape[-1] // 2 ** (len(CHANNELS) - 1)
        noise = normal(self.seed, batch.numbers, "latents", (LATENT_CHANNELS, side, side))
        reconstruction, kl = model(batch.pixels, noise.to(batch.pixels.device))
        error = (reconstruction.float() - batch.pixels).flatten(1)
        loss: Tensor = error.square().mean(1) + L1_WEIGHT * error.abs().mean(1) + KL_WEIGHT * kl
        return loss


@torch.no_grad()
def encode_means(vae: AutoencoderKL, pictures: Tensor, at_once: int = 64) -> tuple[Tensor, Tensor]:
    """Posterior means and standard deviations of uint8 pictures, `[N, C, h, w]` fp32 each."""
    means, deviations = [], []
    for chunk in pictures.split(at_once):
        posterior = vae.encode(pixels_of(chunk)).latent_dist
        means.append(posterior.mean)
        deviations.append(posterior.std)
    return torch.cat(means), torch.cat(deviations)


@torch.no_grad()
def whiten(vae: AutoencoderKL, pictures: Tensor) -> None:
    """Turns the latents into uncorrelated ones of mean 0 and deviation 1, in place.

    The rotation folds into the 1x1 convolutions before and after the latents, so that the decoder
    sees what it saw before and the scaling factor can stay 1. The log-variance half of the quant
    convolution is turned to the whitened scale by its mean, since a rotation of a diagonal Gaussian
    is not diagonal.

    Args:
        vae: The autoencoder, in evaluation mode.
        pictures: uint8 `[N, 3, 64, 64]` to measure the latents on.
    """
    mean, _ = encode_means(vae, pictures)
    columns = mean.transpose(0, 1).flatten(1).double()
    centre = columns.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(columns))
    # ZCA: the symmetric root keeps each latent as close as possible to what it was.
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    count = len(centre)
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight.double()[:, :, 0, 0], quant.bias.double()
    quant.weight[:count, :, 0, 0] = (root @ weight[:count]).float()
    quant.bias[:count] = (root @ (bias[:count] - centre)).float()
    quant.bias[count:] += 2 * root.diagonal().log().float()
    inverse = torch.linalg.inv(root)
    weight, bias = post.weight.double()[:, :, 0, 0], post.bias.double()
    post.weight[:, :, 0, 0] = (weight @ inverse).float()
    post.bias[:] = (bias + weight @ centre).float()
