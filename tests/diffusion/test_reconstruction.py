"""The autoencoder's loss against the closed form, and the noise it is given."""

from __future__ import annotations

import torch
from torch import Tensor

from finetune.config.pretrain import AutoencoderSection
from finetune.diffusion.random import normal
from finetune.diffusion.reconstruction import PixelRows, Reconstruction

ROWS = PixelRows((4, 9), ("a", "b"), torch.full((2, 3, 8, 8), 0.25))


def test_the_loss_of_reconstruction() -> None:
    """Squared and absolute error of a constant, KL of a given Gaussian."""

    def model(pixels: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        assert torch.equal(noise, normal(7, (4, 9), "latents", (3, 4, 4)))
        return pixels + torch.tensor([0.5, -2.0])[:, None, None, None], torch.tensor([10.0, 0.0])

    section = AutoencoderSection(l1_weight=0.1, kl_weight=0.01)
    losses = Reconstruction(7, (3, 4, 4), section)(model, ROWS)
    torch.testing.assert_close(losses, torch.tensor([0.25 + 0.05 + 0.1, 4 + 0.2]))


def test_rows_go_to_a_device_whole() -> None:
    moved = ROWS.to("meta")
    assert (moved.numbers, moved.names) == (ROWS.numbers, ROWS.names)
    assert moved.pixels.device.type == "meta"
    assert moved.learned == (True, True)
