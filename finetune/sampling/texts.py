"""Text embeddings of prompts, each encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.backbones import Backbone
from finetune.diffusion.batch import Conditioning
from finetune.sampling.emphasis import Fragments, edits, parse, plain, weighed
from finetune.sampling.placement import autocast_to, borrowed
from finetune.sampling.settings import SamplingSection

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

    def conditioning(self, prompts: Sequence[str], time_ids: Tensor | None) -> Conditioning:
        """One row per prompt, all with the same time ids (`Backbone.time_ids`)."""
        index = torch.tensor([self.rows[prompt] for prompt in prompts], device=self.hidden.device)
        return Conditioning(
            hidden=self.hidden[index],
            pooled=None if self.pooled is None else self.pooled[index],
            time_ids=None if time_ids is None else time_ids.to(self.hidden.device).expand(len(index), -1),
        )


def fragments(prompt: str, settings: SamplingSection) -> Fragments:
    """The parts of a prompt with their weights; with `emphasis` none it is one part."""
    return parse(prompt) if settings.emphasis == "a1111" else [(prompt, 1.0)]


@torch.no_grad()
def encode_texts(
    backbone: Backbone,
    prompts: Sequence[str],
    settings: SamplingSection,
    device: torch.device,
    dtype: torch.dtype,
) -> Texts:
    """Encodes the distinct `prompts`, with matrix products in `dtype`."""
    unique = list(dict.fromkeys(prompts))
    parts = [fragments(prompt, settings) for prompt in unique]
    skip = settings.clip_skip - 1
    hidden, pooled = [], []
    with borrowed(backbone.text_encoders, device), autocast_to(dtype, device):
        for start in range(0, len(unique), _AT_ONCE):
            some = parts[start : start + _AT_ONCE]
            tokens = backbone.tokenize([plain(one) for one in some]).to(device)
            states, pool = backbone.encode_text(tokens, skip)
            hidden.append(weighed(backbone, states.float(), some))
            if pool is not None:
                pooled.append(pool.float())
    rows = {prompt: row for row, prompt in enumerate(unique)}
    return Texts(rows, torch.cat(hidden), torch.cat(pooled) if pooled else None)


def notes_on(backbone: Backbone, prompt: str, settings: SamplingSection) -> tuple[str, ...]:
    """What of a prompt, and of the negative prompt, has no effect."""
    notes = []
    for kind, text in (("prompt", prompt), ("negative prompt", settings.negative)):
        if lost := backbone.truncated(plain(fragments(text, settings))):
            notes.append(
                f"The {kind} is truncated, too long for the text encoder; this part has no effect: "
                f'"{lost}" (--set model.max_tokens=150 or 225 makes room).'
            )
        if settings.emphasis == "a1111" and (found := edits(text)):
            notes.append(
                f"What A1111 would change between the steps is taken as it stands: {', '.join(found)}"
            )
    return tuple(notes)
