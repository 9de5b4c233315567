"""How the weights move."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune.config.base import Amount, AmountAboveZero, Fraction, Rate, Section


class OptimizerSection(Section):
    """How the weights move."""

    name: Literal["adamw", "adamw8bit"] = Field(
        "adamw", description="AdamW, or AdamW with 8-bit state from bitsandbytes."
    )
    lr: Rate = Field(1e-4, description="Learning rate of the UNet's parameters.")
    text_encoder_lr: Rate | None = Field(
        None, description="Learning rate of the text encoder's parameters; `lr` if unset."
    )
    betas: tuple[Fraction, Fraction] = Field((0.9, 0.999), description="Adam's β1 and β2.")
    eps: AmountAboveZero = Field(1e-8, description="Adam's ε.")
    weight_decay: Amount = Field(0.01, description="Decoupled weight decay.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        "constant", description="How the learning rate goes on after the warm-up."
    )
    warmup_steps: Annotated[int, Field(ge=0)] = Field(0, description="Steps of linear warm-up.")
