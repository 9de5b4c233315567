"""What part of each picture is trained on."""

from __future__ import annotations

from collections.abc import Sequence

from finetune.config import DataSection
from finetune.data.buckets import trained_sizes
from finetune.data.folder import Picture
from finetune.data.preprocess import Placement, place

Framed = Sequence[tuple[Picture, Placement]]
"""Pictures, each once for each resolution, with their place."""


def framed(pictures: Sequence[Picture], data: DataSection, resolution: int, factor: int) -> Framed:
    """Where the part of each picture is that is trained on, in the center if crops are random.

    Args:
        pictures: The pictures.
        data: The recipe's settings.
        resolution: Side in pixels where the settings leave it to the model.
        factor: Pixels per latent along a side.

    Raises:
        ConfigError: If a resolution or the step of the buckets does not fit the model's VAE.
    """
    originals = [(picture.height, picture.width) for picture in pictures]
    items = trained_sizes(originals, data, resolution, factor)
    return [(pictures[index], place(originals[index], size)) for index, size in items]
