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
from finetune.data.decode import PictureError, decode_picture, quiet_pillow
from finetune.errors import ConfigError, DataError
from finetune.sampling.settings import ControlSpec

Picture = Image.Image | str | Path
ControlImages = Picture | Sequence[Picture | Sequence[Picture]]
"""One entry for each ControlNet: a picture for all prompts, or one for each prompt. With a single
ControlNet the entry stands alone."""


_ROUNDING = 8  # pixels that a side may be off by: sizes are multiples of it


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


def pipeline_arguments(
    controls: Sequence[Control], rows: Sequence[Sequence[Image.Image]], size: tuple[int, int]
) -> dict[str, Any]:
    """The arguments of diffusers' ControlNet pipelines; none without ControlNets.

    Args:
        controls: The ControlNets.
        rows: The control pictures of each picture, one for each ControlNet.
        size: Width and height in pixels.

    Raises:
        ConfigError: If a picture has another aspect ratio.
    """
    columns = zip(*rows, strict=True)
    values: dict[str, list[Any]] = {
        "image": [
            control_tensor(column, size, control.spec.preprocess)
            for column, control in zip(columns, controls, strict=True)
        ],
        "controlnet_conditioning_scale": [float(c.spec.scale) for c in controls],
        "control_guidance_start": [c.spec.start for c in controls],
        "control_guidance_end": [c.spec.end for c in controls],
    }
    if len(controls) == 1:  # a pipeline with one ControlNet takes no lists
        return {key: value[0] for key, value in values.items()}
    return values if controls else {}


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
    return list(zip(*(_for_prompts(entry, prompts) for entry in entries), strict=True))


def _for_prompts(entry: Picture | Sequence[Picture], prompts: int) -> list[Image.Image]:
    if isinstance(entry, Image.Image | str | Path):
        return [_open(entry)] * prompts
    if len(entry) != prompts:
        raise ConfigError(
            f"{prompts} prompts were given but {len(entry)} control pictures.",
            where="control pictures",
            fix="Give one for all prompts, or one for each.",
        )
    return [_open(picture) for picture in entry]


def _open(picture: Picture) -> Image.Image:
    if isinstance(picture, Image.Image):
        return picture.convert("RGB")
    try:
        data = Path(picture).expanduser().read_bytes()
        with quiet_pillow():
            return decode_picture(data).image
    except (OSError, PictureError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"The control picture cannot be read: {reason}.", where=str(picture), fix="Check the path."
        ) from error


def size_of(picture: Image.Image, native: int) -> tuple[int, int]:
    """The size to sample at: the control picture's, in multiples of 8 and no larger than the model's own.

    Returns:
        Width and height in pixels; a larger picture is reduced until its shorter side is `native`.
    """
    factor = min(1.0, native / min(picture.size))
    width, height = (max(8, round(side * factor / 8) * 8) for side in picture.size)
    return width, height


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
    width, height = size
    rows = []
    for picture in pictures:
        if abs(picture.width * height / picture.height - width) > _ROUNDING:
            raise ConfigError(
                f"A control picture is {picture.width}x{picture.height} pixels, which cannot be resized to "
                f"{width}x{height} without distortion.",
                where="control pictures",
                fix=f"Crop it, or sample at its shape with --size {picture.width}x{picture.height}.",
            )
        if picture.size != size:
            picture = picture.resize(size, Image.Resampling.LANCZOS)
        rows.append(torch.from_numpy(control_pixels(np.array(picture), kind)))
    return torch.stack(rows).permute(0, 3, 1, 2).float() / 255


def control_image(row: Tensor) -> Image.Image:
    """The reverse of `control_tensor` for one picture `[3, H, W]`."""
    levels = (row.clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(levels.permute(1, 2, 0).cpu().numpy())
