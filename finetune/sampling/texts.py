"""Text embeddings of prompts, each encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.sampling.placement import autocast_to, borrowed

_AT_ONCE = 32


@dataclass(frozen=True)
class Texts:
    """Text embeddings of distinct prompts, fp32 on the sampling device.

    Attributes:
        rows: The row of each prompt.
        hidden: `[N, T, D]` hidden states.
        pooled: `[N, P]`, or None where the family has none.
    """

    rows: dict[str, int]
    hidden: Tensor
    pooled: Tensor | None

    def arguments(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """The pipeline's `prompt_embeds` and `pooled_prompt_embeds`, one row per prompt."""
        index = torch.tensor([self.rows[prompt] for prompt in prompts], device=self.hidden.device)
        found = {"prompt_embeds": self.hidden[index]}
        if self.pooled is not None:
            found["pooled_prompt_embeds"] = self.pooled[index]
        return found


@torch.no_grad()
def encode_texts(
    backbone: Backbone, prompts: Sequence[str], device: torch.device, dtype: torch.dtype
) -> Texts:
    """Encodes the distinct `prompts`, with matrix products in `dtype`."""
    unique = list(dict.fromkeys(prompts))
    hidden, pooled = [], []
    with borrowed(backbone.text_encoders, device), autocast_to(dtype, device):
        for start in range(0, len(unique), _AT_ONCE):
            tokens = backbone.tokenize(unique[start : start + _AT_ONCE]).to(device)
            states, pool = backbone.encode_text(tokens)
            hidden.append(states.float())
            if pool is not None:
                pooled.append(pool.float())
    rows = {prompt: row for row, prompt in enumerate(unique)}
    return Texts(rows, torch.cat(hidden), torch.cat(pooled) if pooled else None)
