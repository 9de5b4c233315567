"""The training pictures, as the base model sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from finetune.backbones import Backbone
from finetune.data import Folder, View
from finetune.data.decode import quiet_pillow
from finetune.data.pictures import PictureLatents
from finetune.data.preprocess import as_pixels
from finetune.sampling.grid import to_images

MOST = 64
"""Pictures that are looked at; of more, as many that are evenly spread."""


@dataclass(frozen=True)
class Known:
    """Pictures with captions.

    Attributes:
        names: Of their files.
        captions: One each.
        latents: `[N, C, h, w]` scaled latents.
        mirrored: `[N, C, h, w]` of the same pictures mirrored.
        images: As the model sees them.
    """

    names: tuple[str, ...]
    captions: tuple[str, ...]
    latents: Tensor
    mirrored: Tensor
    images: tuple[Image.Image, ...]

    @classmethod
    def read(cls, folder: Folder, backbone: Backbone) -> Known:
        """Encodes pictures in the center square, at the model's own size.

        Args:
            folder: What was scanned.
            backbone: The base model.

        Raises:
            DataError: If a picture cannot be read any more.
        """
        seen = folder.pictures[:: math.ceil(len(folder.pictures) / MOST)]
        size = (backbone.native_size, backbone.native_size)
        encoder, places = PictureLatents(seen, backbone), range(len(seen))
        plain, mirrored = (
            encoder.posterior([View(place, size, mirrored=swapped) for place in places]).mean
            for swapped in (False, True)
        )
        with quiet_pillow():
            pixels = torch.stack([as_pixels(View(place, size).levels(seen)) for place in places])
        captions = tuple(picture.captions[0] for picture in seen)
        names = tuple(picture.name for picture in seen)
        return cls(names, captions, plain, mirrored, tuple(to_images(pixels)))
