"""A diffusers pipeline around modules that are already loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from finetune.backbones.families import Family


def build_pipeline(
    family: Family, unet: Any, vae: Any, encoders: Sequence[Any], tokenizers: Sequence[Any], scheduler: Any
) -> Any:
    """The family's text-to-image pipeline, sharing the given modules but not the scheduler's state.

    There is no safety checker, no watermark and no progress bar.

    Returns:
        A `StableDiffusionPipeline`, or a `StableDiffusionXLPipeline` for SDXL.
    """
    kind: Any = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
    parts: dict[str, Any] = {
        "unet": unet,
        "vae": vae,
        "text_encoder": encoders[0],
        "tokenizer": tokenizers[0],
    }
    if family == "sdxl":
        parts |= {"text_encoder_2": encoders[1], "tokenizer_2": tokenizers[1], "add_watermarker": False}
    else:
        parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    pipeline = kind(**parts, scheduler=type(scheduler).from_config(scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
