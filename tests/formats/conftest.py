"""LoRAs with values as if trained, and pictures made with them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from finetune.adapters import LoRA
from finetune.backbones import Backbone
from finetune.config import LoRASection

Pictured = Callable[[Any], "np.ndarray[Any, Any]"]


def trained_lora(backbone: Backbone, **settings: Any) -> LoRA:
    """A LoRA whose parameters have moved."""
    adapter = LoRA(backbone, LoRASection(**({"rank": 4, "alpha": 2.0} | settings))).eval()
    drawn = torch.Generator().manual_seed(7)
    for name, parameter in adapter.trained().items():
        noise = torch.randn(parameter.shape, generator=drawn)
        parameter.data = parameter.data + 0.2 * (noise.abs() if "magnitude" in name else noise)
    return adapter


@pytest.fixture
def fresh(family: str, loaded: dict[str, Backbone]) -> Callable[[], Backbone]:
    """Copies the tiny model of `family` as it was loaded."""
    return lambda: copy.deepcopy(loaded[family])


@torch.no_grad()
def picture(pipeline: Any) -> np.ndarray[Any, Any]:
    """A small picture, values from 0 to 255, with classifier-free guidance."""
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        "a red cat",
        height=32,
        width=32,
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    )
    result: np.ndarray[Any, Any] = made.images[0] * 255
    return result
