"""Makes an autoencoder's latents uncorrelated, of mean 0 and deviation 1; its reconstructions stay."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from diffusers import AutoencoderKL
from torch import Tensor


@torch.no_grad()
def whiten(vae: AutoencoderKL, batches: Iterable[Tensor]) -> None:
    """Makes sampled latents uncorrelated, of mean 0 and deviation 1, by changing the autoencoder in place.

    The transform is folded into the 1x1 convolutions before and after the latents, so that the decoder
    sees what it saw before and the scaling factor can stay 1. The log-variance half of the quant
    convolution is only rescaled, channel by channel, since a rotated diagonal Gaussian is not diagonal.

    Args:
        vae: The autoencoder, in evaluation mode.
        batches: Pictures to measure the latents on, `[B, 3, S, S]` in [-1, 1] each.
    """
    posteriors = [vae.encode(pixels.to(vae.device)).latent_dist for pixels in batches]
    columns = torch.cat([p.mean.cpu() for p in posteriors]).transpose(0, 1).flatten(1).double()
    drawn = torch.cat([p.var.cpu() for p in posteriors]).transpose(0, 1).flatten(1).double()
    center = columns.mean(1)
    values, vectors = torch.linalg.eigh(torch.cov(columns) + torch.diag(drawn.mean(1)))
    # ZCA: the symmetric root keeps each latent as close as possible to what it was.
    root = vectors @ torch.diag(values.rsqrt()) @ vectors.T
    count = len(center)
    quant, post = vae.quant_conv, vae.post_quant_conv
    weight, bias = quant.weight.cpu().double()[:, :, 0, 0], quant.bias.cpu().double()
    quant.weight[:count, :, 0, 0] = (root @ weight[:count]).float().to(vae.device)
    quant.bias[:count] = (root @ (bias[:count] - center)).float().to(vae.device)
    quant.bias[count:] += 2 * root.diagonal().log().float().to(vae.device)
    inverse = torch.linalg.inv(root)
    weight, bias = post.weight.cpu().double()[:, :, 0, 0], post.bias.cpu().double()
    post.weight[:, :, 0, 0] = (weight @ inverse).float().to(vae.device)
    post.bias[:] = (bias + weight @ center).float().to(vae.device)
