"""The pretrained model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from finetune.config.base import Section


class ModelSection(Section):
    """The pretrained model that is taught."""

    name: str = Field(
        "auto",
        description="A diffusers folder, a Hub id, a single-file .safetensors checkpoint, or an "
        "alias: storybook, sd15, sd21, sdxl. `auto` is sd15 on a GPU and storybook without one.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hub id.")
    prediction_type: Literal["auto", "epsilon", "v_prediction", "sample"] = Field(
        "auto",
        description="What the UNet predicts; `auto` reads it from the model. Needed only for "
        "single-file checkpoints that do not say it.",
    )
    allow_pickle: bool = Field(
        False, description="Also load .ckpt, .bin and .pt weights (weights only, no code)."
    )


def public_name(name: str) -> str:
    """What files that are passed on say of a model: of a path the last name, since folders are private."""
    path = Path(name).expanduser()
    return path.resolve().name if path.is_absolute() or path.exists() else name
