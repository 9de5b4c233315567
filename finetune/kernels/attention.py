"""Other ways to compute attention in diffusers' models."""

from __future__ import annotations

from typing import Any

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from finetune.config.attention import ATTENTIONS
from finetune.config.choices import imported
from finetune.kernels.swapped import Swap


class FlashProcessor(AttnProcessor2_0):  # type: ignore[misc]  # diffusers' class is untyped
    """PyTorch's attention by its FlashAttention kernel alone, which needs fp16 or bf16 on an NVIDIA GPU."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `AttnProcessor2_0`.

        Raises:
            RuntimeError: If the kernel cannot compute this.
        """
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return super().__call__(*args, **kwargs)  # type: ignore[no-any-return]


def attention(model: nn.Module, name: str) -> list[Swap]:
    """Makes all of a diffusers model's attention be computed another way.

    Args:
        model: Any module with such models in it.
        name: A key of `ATTENTIONS`.
    """
    processor = imported(ATTENTIONS[name].processor)()
    return [Swap(layer, "processor", processor) for layer in model.modules() if isinstance(layer, Attention)]
