"""The arguments that a UNet, and a ControlNet beside it, are called with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from finetune.diffusion.batch import Conditioning

if TYPE_CHECKING:
    from finetune.backbones.backbone import Backbone


def unet_arguments(
    unet: Any, conditioning: Conditioning, device: torch.device, dtype: torch.dtype
) -> dict[str, Any]:
    """The arguments besides latents and timesteps; a ControlNet takes the same.

    Args:
        unet: Its configuration says whether it takes time ids and pooled text (SDXL).
        conditioning: With `hidden`.
        device: The device to move them to.
        dtype: Of text embeddings; time ids stay fp32.

    Raises:
        ValueError: If the conditioning lacks something.
    """
    assert conditioning.hidden is not None
    arguments: dict[str, Any] = {"encoder_hidden_states": conditioning.hidden.to(device, dtype)}
    if unet.config.addition_embed_type == "text_time":
        if conditioning.pooled is None or conditioning.time_ids is None:
            raise ValueError("SDXL's Conditioning needs pooled and time_ids")
        arguments["added_cond_kwargs"] = {
            "text_embeds": conditioning.pooled.to(device, dtype),
            "time_ids": conditioning.time_ids.to(device),
        }
    return arguments


def residuals(
    branch: Any,
    noisy_latents: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    dtype: torch.dtype,
    scale: float = 1.0,
) -> dict[str, Any]:
    """What a ControlNet adds to the skip connections and the middle of the UNet (arXiv:2302.05543).

    Args:
        branch: A `ControlNetModel`; it computes in its own precision.
        noisy_latents: `[B, C, h, w]`.
        timesteps: `[B]`, or one for all.
        conditioning: With `hidden` and `control`.
        dtype: What the UNet computes in.
        scale: How strongly it acts; 1 as trained.

    Returns:
        Arguments for the UNet.

    Raises:
        ValueError: If the conditioning lacks something.
    """
    if conditioning.control is None:
        raise ValueError("a ControlNet needs control pictures in the Conditioning")
    device, own = noisy_latents.device, next(branch.parameters()).dtype
    down, middle = branch(
        noisy_latents.to(own),
        timesteps,
        controlnet_cond=conditioning.control.to(device, own),
        conditioning_scale=scale,
        return_dict=False,
        **unet_arguments(branch, conditioning, device, own),
    )
    return {
        "down_block_additional_residuals": [added.to(dtype) for added in down],
        "mid_block_additional_residual": middle.to(dtype),
    }


def unconditional(backbone: Backbone, empty: Conditioning) -> Conditioning:
    """What the UNet is told where there is no prompt, for classifier-free guidance.

    Args:
        backbone: The model.
        empty: The embedding of the empty text.

    Returns:
        `empty`, or zeros where the model was trained with those, as SDXL was.
    """
    if not backbone.pipeline_options.get("force_zeros_for_empty_prompt"):
        return empty
    assert empty.hidden is not None
    pooled = None if empty.pooled is None else torch.zeros_like(empty.pooled)
    return replace(empty, hidden=torch.zeros_like(empty.hidden), pooled=pooled)
