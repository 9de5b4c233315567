"""What is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune.config.base import AmountAboveZero, Positive, Section


class LoRASection(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    rank: Positive = Field(16, description="Rank of the update of each linear layer.")
    alpha: AmountAboveZero = Field(
        16.0, description="The update is scaled by alpha/rank (alpha/√rank with rslora)."
    )
    dropout: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)] = Field(
        0.0, description="Dropout on the input of the low-rank layers."
    )
    targets: Literal["attention", "attention+ff", "all"] | list[str] = Field(
        "attention",
        description="UNet layers that get an adapter: attention projections, also the feed-forward "
        "layers, all linear layers of the transformer blocks, or a list of module-name endings.",
    )
    conv_rank: Positive | None = Field(
        None, description="Also adapt the UNet's convolutions with this rank (LoCon)."
    )
    conv_alpha: AmountAboveZero | None = Field(
        None, description="Alpha of the convolutions; their rank if unset."
    )
    text_encoder: bool = Field(False, description="Also adapt the text encoder(s).")
    rslora: bool = Field(False, description="Rank-stabilised scaling alpha/√rank (arXiv:2312.03732).")
    dora: bool = Field(False, description="Weight-decomposed LoRA (arXiv:2402.09353).")


class FullSection(Section):
    """All weights of the UNet."""

    text_encoder: bool = Field(False, description="Also train the text encoder(s).")
