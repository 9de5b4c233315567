"""The ways to compute a UNet's attention, one row each."""

from __future__ import annotations

from dataclasses import dataclass

from finetune.config.choices import Choices, Row

_DIFFUSERS = "diffusers.models.attention_processor"


@dataclass(frozen=True, kw_only=True)
class Attention(Row):
    """One way to compute softmax(QKᵀ/√d)V; all differ in rounding only.

    Attributes:
        processor: Its class as diffusers' models call it, "module:name".
        library: What must be installed besides PyTorch and diffusers.
        only_cuda: Whether it needs an NVIDIA GPU.
    """

    processor: str
    library: str | None = None
    only_cuda: bool = False


ATTENTIONS = Choices(
    "training.attention",
    {
        # What is fastest here is found out before training (`finetune.training.speed`).
        "auto": Attention(processor=f"{_DIFFUSERS}:AttnProcessor2_0"),
        # PyTorch's scaled_dot_product_attention, which chooses among its own kernels.
        "sdpa": Attention(processor=f"{_DIFFUSERS}:AttnProcessor2_0"),
        # The same, with a backward pass by matrix products for bf16 on a CPU (`finetune.kernels.products`).
        "products": Attention(processor=f"{_DIFFUSERS}:AttnProcessor2_0"),
        # Memory-efficient attention (Rabe & Staats 2021, arXiv:2112.05682) of xFormers.
        "xformers": Attention(
            processor=f"{_DIFFUSERS}:XFormersAttnProcessor", library="xformers", only_cuda=True
        ),
        # FlashAttention-2 (Dao 2023, arXiv:2307.08691) as PyTorch has it, and nothing else.
        "flash": Attention(processor="finetune.kernels.attention:FlashProcessor", only_cuda=True),
    },
)
