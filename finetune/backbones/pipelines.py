"""A diffusers pipeline around modules that are already loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from diffusers import (
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLPipeline,
)

from finetune.backbones.families import Family

_KINDS: dict[tuple[bool, bool], Any] = {
    (False, False): StableDiffusionPipeline,
    (False, True): StableDiffusionControlNetPipeline,
    (True, False): StableDiffusionXLPipeline,
    (True, True): StableDiffusionXLControlNetPipeline,
}


def build_pipeline(
    family: Family,
    unet: Any,
    vae: Any,
    encoders: Sequence[Any],
    tokenizers: Sequence[Any],
    scheduler: Any,
    branches: Sequence[Any] = (),
) -> Any:
    """The family's text-to-image pipeline, sharing the given modules but not the scheduler's state.

    There is no safety checker, no watermark and no progress bar.

    Returns:
        A `StableDiffusionPipeline`, or a `StableDiffusionXLPipeline` for SDXL; with `branches` (some
        `ControlNetModel`s) the `…ControlNetPipeline` of the family.
    """
    kind = _KINDS[family == "sdxl", bool(branches)]
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
    if branches:
        # Several are wrapped by the pipeline, and one in a list would be too.
        parts["controlnet"] = list(branches) if len(branches) > 1 else branches[0]
    pipeline = kind(**parts, scheduler=type(scheduler).from_config(scheduler.config))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
