"""Stable Diffusion XL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers import (
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLInpaintPipeline,
    StableDiffusionXLPipeline,
)
from torch import Tensor
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from finetune.backbones.backbone import Backbone, Size
from finetune.backbones.names import original_unet_name


class StableDiffusionXL(Backbone):
    """SDXL (Podell et al. 2023, arXiv:2307.01952): two text encoders, CLIP ViT-L and OpenCLIP ViT-bigG."""

    encoder_classes: ClassVar[tuple[Any, ...]] = (CLIPTextModel, CLIPTextModelWithProjection)
    pipeline_class: ClassVar[Any] = StableDiffusionXLPipeline
    branched_class: ClassVar[Any] = StableDiffusionXLControlNetPipeline
    inpainting_class: ClassVar[Any] = StableDiffusionXLInpaintPipeline
    pipeline_options: ClassVar[dict[str, Any]] = {
        "add_watermarker": False,
        "force_zeros_for_empty_prompt": True,
    }
    kohya_roots: ClassVar[dict[str, str]] = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1",
        "text_encoder_2": "lora_te2",
    }
    original_text: ClassVar[tuple[tuple[str, str], ...]] = (
        ("clip", "conditioner.embedders.0.transformer."),
        ("open_clip", "conditioner.embedders.1.model."),
    )

    def _encode_text(self, planes: Sequence[Tensor], skip: int) -> tuple[Tensor, Tensor | None]:
        """Penultimate layers joined, `[B, T, D₁ + D₂]`, and the last encoder's pooled text, `[B, P]`.

        What is skipped comes before the last layer, which is never used.
        """
        pairs = zip(self.text_encoders, planes, strict=True)
        outputs = [encoder(plane, output_hidden_states=True) for encoder, plane in pairs]
        hidden = torch.cat([output.hidden_states[-(skip + 2)] for output in outputs], dim=-1)
        return hidden, outputs[-1].text_embeds

    def time_ids(self, original: Size, crop: Size, target: Size) -> Tensor | None:
        """The size conditioning of section 2.2, `[1, 6]` fp32; see `Backbone.time_ids`."""
        return torch.tensor([[*original, *crop, *target]], dtype=torch.float32)

    def kohya_unet_name(self, module_name: str) -> str:
        """The original code's name; see `Backbone.kohya_unet_name`."""
        return super().kohya_unet_name(original_unet_name(self.unet, module_name))
