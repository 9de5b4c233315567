"""Stable Diffusion 1.x and 2.x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor
from transformers import CLIPTextModel

from finetune.backbones.backbone import Backbone


class StableDiffusion(Backbone):
    """Stable Diffusion 1.x (Rombach et al. 2022, arXiv:2112.10752): one text encoder, CLIP ViT-L."""

    encoder_classes: ClassVar[tuple[Any, ...]] = (CLIPTextModel,)
    pipeline_class: ClassVar[Any] = StableDiffusionPipeline
    branched_class: ClassVar[Any] = StableDiffusionControlNetPipeline
    inpainting_class: ClassVar[Any] = StableDiffusionInpaintPipeline
    pipeline_options: ClassVar[dict[str, Any]] = {
        "safety_checker": None,
        "feature_extractor": None,
        "requires_safety_checker": False,
    }
    kohya_roots: ClassVar[dict[str, str]] = {"unet": "lora_unet", "text_encoder": "lora_te"}
    original_text: ClassVar[tuple[tuple[str, str], ...]] = (("clip", "cond_stage_model.transformer."),)

    def _encode_text(self, planes: Sequence[Tensor], skip: int) -> tuple[Tensor, Tensor | None]:
        """The normalized output of the last layer that is not skipped, `[B, T, D]`; no pooled text."""
        (encoder,) = self.text_encoders
        output = encoder(planes[0], output_hidden_states=skip > 0)
        hidden: Tensor = output.last_hidden_state
        if skip:
            # Older releases of transformers have a model inside of the model.
            norm = getattr(encoder, "text_model", encoder).final_layer_norm
            hidden = norm(output.hidden_states[-(skip + 1)])
        return hidden, None


class StableDiffusion2(StableDiffusion):
    """Stable Diffusion 2.x: OpenCLIP ViT-H, published with noise and velocity prediction under the same keys.

    Its published text encoder ends with OpenCLIP's penultimate layer, so the last layer is right here too.
    """

    published_predictions: ClassVar[tuple[str, ...]] = ("epsilon", "v_prediction")
    original_text: ClassVar[tuple[tuple[str, str], ...]] = (("open_clip", "cond_stage_model.model."),)
