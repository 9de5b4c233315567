"""Which family a LoRA file seems to be made for."""

from __future__ import annotations

import pytest
import torch

from finetune.formats.families import made_for


@pytest.mark.parametrize(
    ("metadata", "told"),
    [
        ({"ss_base_model_version": "sd_v2_v"}, "SD 2.x"),
        ({"modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}, "SDXL"),
        ({"ss_base_model_version": "sd_v1", "modelspec.architecture": "unheard-of"}, "SD 1.x"),
        ({"ss_base_model_version": "flux1"}, "flux1"),
        ({"modelspec.architecture": "flux-1-dev/lora"}, "flux-1-dev"),
        ({}, None),
    ],
)
def test_metadata_tells(metadata: dict[str, str], told: str | None) -> None:
    assert made_for({"x": torch.ones(2, 2)}, metadata) == told


def test_only_what_reads_the_text_tells_by_its_width() -> None:
    # Other layers may have any width, and the rank any value: here SD 1.x's.
    decoys = {
        "x.attn1.to_k.lora_A.weight": torch.ones(4, 768),
        "x.attn2.to_q.lora_A.weight": torch.ones(4, 768),
        "x.attn2.to_k.lora_B.weight": torch.ones(320, 768),
        "x.attn2.to_k.lora_down.alpha": torch.ones(768),
        "x.attn2.to_v.lora_down.weight": torch.ones(4, 768),
    }
    assert made_for(decoys, {}) is None
    for name in ("x.attn2.to_k.lora_A.weight", "lora_unet_x_attn2_to_k.lora_down.weight"):
        assert made_for({**decoys, name: torch.ones(4, 1024)}, {}) == "SD 2.x"
