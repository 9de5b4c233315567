"""ControlNets and control pictures for a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from finetune.config import ControlKind
from finetune.data.control import control_pixels
from finetune.errors import ConfigError
from finetune.sampling.pictures import Picture, fitted, for_prompts
from finetune.sampling.specs import ControlSpec

ControlImages = Picture | Sequence[Picture | Sequence[Picture]]
"""One entry for each ControlNet: a picture for all prompts, or one for each prompt. With a single
ControlNet the entry stands alone."""


@dataclass(frozen=True)
class Control:
    """A loaded ControlNet.

    Attributes:
        name: What it is called in the pictures' metadata.
        branch: A `ControlNetModel`.
        spec: How strongly it acts, when, and on what.
    """

    name: str
    branch: Any
    spec: ControlSpec

    def info(self) -> dict[str, Any]:
        """Name and settings as plain values."""
        values = asdict(self.spec)
        del values["path"]
        return {"name": self.name, **values}


def control_rows(
    images: ControlImages | None, controls: Sequence[Control], prompts: int
) -> list[tuple[Image.Image, ...]]:
    """For each prompt its control picture for each ControlNet; empty tuples if there are none.

    Raises:
        ConfigError: If there are not as many pictures as ControlNets and prompts.
        DataError: If a picture cannot be read.
    """
    if images is None or not controls:
        if images is None and not controls:
            return [()] * prompts
        raise ConfigError(
            "A ControlNet is given without a control picture."
            if controls
            else "A control picture is given without a ControlNet.",
            where="control pictures",
            fix="Give as many control pictures as ControlNets, in the same order.",
        )
    entries: list[Any] = [images] if isinstance(images, Image.Image | str | Path) else list(images)
    if len(controls) == 1 and len(entries) != 1:
        entries = [entries]
    if len(entries) != len(controls):
        raise ConfigError(
            f"{len(controls)} ControlNets are given but {len(entries)} control pictures.",
            where="control pictures",
            fix="Give one for each ControlNet, in the same order.",
        )
    opened = [for_prompts(entry, prompts, "control picture") for entry in entries]
    columns = [[picture.image for picture in column] for column in opened]
    return list(zip(*columns, strict=True))


def control_tensor(
    pictures: Sequence[Image.Image], size: tuple[int, int], kind: ControlKind = "none"
) -> Tensor:
    """Control pictures as the branch sees them: `[B, 3, H, W]` fp32 in [0, 1].

    Args:
        pictures: RGB.
        size: Width and height in pixels.
        kind: How they are made from the pictures, once those are resized.

    Raises:
        ConfigError: If a picture has another aspect ratio.
    """
    resized = [fitted(picture, size, "control picture") for picture in pictures]
    rows = [torch.from_numpy(control_pixels(np.array(picture), kind)) for picture in resized]
    return torch.stack(rows).permute(0, 3, 1, 2).float() / 255


def control_image(row: Tensor) -> Image.Image:
    """The reverse of `control_tensor` for one picture `[3, H, W]`."""
    levels = (row.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
