"""What every form of an export is written from."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageOps

from finetune.backbones import Backbone
from finetune.data.decode import PictureError, decode_picture, quiet_pillow
from finetune.data.read import bytes_of
from finetune.errors import DataError

RANK = 64
THUMBNAIL = "modelspec.thumbnail"
_SIDE = 256  # pixels, as Stability's standard recommends


@dataclass(frozen=True)
class Job:
    """One export.

    Attributes:
        source: A run folder, folder or file.
        backbone: The model that it was made for, or is, in any precision; it is not changed.
        out: The file or folder to write; it appears whole or not at all.
        dtype: Of the written weights.
        weight: Of a LoRA: 1 as trained.
        rank: Of the plain LoRA that stands for layers with DoRA magnitudes.
        thumbnail: A picture for the file's metadata, as a data URL.
    """

    source: Path
    backbone: Backbone
    out: Path
    dtype: torch.dtype = torch.float32
    weight: float = 1.0
    rank: int = RANK
    thumbnail: str | None = None

    def told(self, metadata: Mapping[str, str]) -> dict[str, str]:
        """What the written file says about itself: what the source does, and the thumbnail."""
        pictured = {} if self.thumbnail is None else {THUMBNAIL: self.thumbnail}
        return {**metadata, **pictured}


def data_url(file: Path) -> str:
    """A picture file as a small square JPEG in a data URL, for `modelspec.thumbnail`.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with quiet_pillow():
            picture = decode_picture(bytes_of(file)).image
    except PictureError as reason:
        raise DataError(
            f"The thumbnail cannot be used: {reason}.", where=str(file), fix="Give a picture."
        ) from None
    small, content = ImageOps.fit(picture, (_SIDE, _SIDE), Image.Resampling.LANCZOS), io.BytesIO()
    small.save(content, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}"
