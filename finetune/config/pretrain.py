"""A model that is trained from scratch: its sizes, and the training of its autoencoder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from finetune.config.base import Amount, Positive, Rate, Section

Channels = Annotated[int, Field(ge=16, le=4096, multiple_of=16)]
Levels = Annotated[list[Channels], Field(min_length=2, max_length=6)]
Width = Annotated[int, Field(ge=32, le=4096, multiple_of=32)]


class ArchitectureSection(Section):
    """The sizes of a new Stable Diffusion 1; each number overrides that of `size`."""

    size: Literal["tiny", "small", "medium"] = Field(
        "tiny",
        description="tiny: 7 million parameters, for 64 pixels, as storybook has; small: 29 million, for "
        "128 pixels; medium: 130 million, for 256 pixels.",
    )
    latent_channels: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Channels of a latent; from `size` if unset."
    )
    autoencoder_channels: Levels | None = Field(
        None,
        description="Channels of the autoencoder at each resolution, multiples of 16; each after the first "
        "halves the side. From `size` if unset.",
    )
    unet_channels: Levels | None = Field(
        None,
        description="Channels of the UNet at each resolution, multiples of 16; each after the first halves "
        "the side. From `size` if unset.",
    )
    layers: Annotated[int, Field(ge=1, le=8)] | None = Field(
        None, description="Residual blocks of the UNet at each resolution; from `size` if unset."
    )
    text_width: Width | None = Field(
        None, description="Width of the text encoder, a multiple of 32; from `size` if unset."
    )
    text_layers: Annotated[int, Field(ge=1, le=48)] | None = Field(
        None, description="Layers of the text encoder; from `size` if unset."
    )
    tokens: Annotated[int, Field(ge=8, le=512)] | None = Field(
        None, description="Tokens of a caption, start and end included; from `size` if unset."
    )
    vocabulary: Annotated[int, Field(ge=600, le=50_000)] | None = Field(
        None, description="Most tokens to learn from the captions; from `size` if unset."
    )

    def sizes(self) -> dict[str, Any]:
        """Every number, from `size` where none is given."""
        given = {name: value for name, value in self if name != "size" and value is not None}
        return SIZES[self.size] | given


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "resolution": 64,
        "latent_channels": 8,
        "autoencoder_channels": [32, 48, 64],
        "unet_channels": [64, 96, 128],
        "layers": 1,
        "text_width": 128,
        "text_layers": 2,
        "tokens": 32,
        "vocabulary": 900,
    },
    "small": {
        "resolution": 128,
        "latent_channels": 8,
        "autoencoder_channels": [48, 96, 128],
        "unet_channels": [128, 192, 256],
        "layers": 1,
        "text_width": 256,
        "text_layers": 4,
        "tokens": 48,
        "vocabulary": 2_000,
    },
    "medium": {
        "resolution": 256,
        "latent_channels": 8,
        "autoencoder_channels": [64, 128, 192, 192],
        "unet_channels": [160, 320, 480],
        "layers": 2,
        "text_width": 512,
        "text_layers": 6,
        "tokens": 77,
        "vocabulary": 8_000,
    },
}
"""The numbers of each size, and the resolution it is made for."""


class AutoencoderSection(Section):
    """The training of the autoencoder, before that of UNet and text encoder."""

    data_dir: Path | None = Field(
        None,
        description="More pictures for the autoencoder alone, so that it can show what the captioned ones "
        "lack; they need no captions.",
    )
    steps: Positive = Field(12_000, description="Optimizer steps.")
    batch_size: Positive = Field(8, description="Pictures per step and process.")
    lr: Rate = Field(2e-3, description="Peak learning rate; it decays to zero along a cosine.")
    ema_decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.998, description="Decay per step of the moving average that is kept."
    )
    l1_weight: Amount = Field(0.1, description="Weight of the absolute error, added to the squared error.")
    kl_weight: Amount = Field(3e-5, description="Weight of the KL divergence from a standard normal.")
    whiten: bool = Field(
        True,
        description="Make the latents uncorrelated afterward, with mean 0 and standard deviation 1: the "
        "pictures stay the same, and the UNet learns sooner.",
    )
