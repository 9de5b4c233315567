"""Attention by other processors; those that need a GPU are in tests/gpu."""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import AttnProcessor

from finetune.backbones import Backbone
from finetune.config.attention import ATTENTIONS, Attention
from finetune.kernels import attention, swapped


def test_attention_is_computed_another_way_for_a_while(backbone: Backbone) -> None:
    # Written out in matrix products, diffusers' own.
    ATTENTIONS["written-out"] = Attention(processor="diffusers.models.attention_processor:AttnProcessor")
    unet, drawn = backbone.unet, torch.Generator().manual_seed(0)
    heads = dict(unet.attn_processors)
    inputs = (torch.randn(2, 4, 8, 8, generator=drawn), torch.tensor([10, 700]))
    told = backbone.conditioning(["a cat", "a red dog"])
    try:
        swaps = attention(unet, "written-out")
    finally:
        del ATTENTIONS["written-out"]
    with torch.no_grad():
        before = backbone.predict(*inputs, told)
        with swapped(swaps):
            assert {type(p) for p in unet.attn_processors.values()} == {AttnProcessor}
            assert len(swaps) == len(heads)
            torch.testing.assert_close(backbone.predict(*inputs, told), before, rtol=1e-4, atol=1e-5)
    assert unet.attn_processors == heads
