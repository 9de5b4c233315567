"""The autoencoder as it is trained, against diffusers' own parts and the closed form of the KL divergence."""

from __future__ import annotations

import torch

from finetune.adapters.autoencoder import Autoencoding
from tests.tiny import tiny_pipeline


@torch.no_grad()
def test_it_decodes_what_the_posterior_and_the_noise_say() -> None:
    vae = tiny_pipeline("sd1").vae.eval()
    pixels = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    posterior = vae.encode(pixels).latent_dist
    mean, variance = posterior.mean, posterior.logvar.exp()

    reconstruction, kl = Autoencoding(vae)(pixels, noise)

    torch.testing.assert_close(reconstruction, vae.decode(mean + variance.sqrt() * noise).sample)
    nats = 0.5 * (mean.square() + variance - 1 - variance.log())  # Kingma & Welling 2013, appendix B
    torch.testing.assert_close(kl, nats.mean((1, 2, 3)))


def test_all_of_it_is_one_group() -> None:
    vae = tiny_pipeline("sd1").vae
    (group,) = Autoencoding(vae).groups()
    assert group.name == "vae"
    assert dict(group.parameters) == dict(vae.named_parameters())
