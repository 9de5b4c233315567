"""Pictures that are rows of a data set of Hugging Face's `datasets`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import ClassVar

from pydantic import Field

from finetune.config.base import Fault, Need, Positive, Section

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


class RowsSection(Section):
    """Which data set, and which of its columns."""

    needs: ClassVar[tuple[Need, ...]] = (
        Need("data.dataset_config", "dataset", example="lambdalabs/naruto-blip-captions"),
        Need("data.revision", "dataset", example="lambdalabs/naruto-blip-captions"),
    )

    dataset: str | None = Field(
        None,
        description="Data set on the Hugging Face Hub to train on instead of a folder, such as "
        "`lambdalabs/naruto-blip-captions`.",
    )
    dataset_config: str | None = Field(
        None, description="Its configuration, if it has several (the Hub also says subset)."
    )
    revision: str | None = Field(
        None, description="Its branch, tag or commit on the Hub; the newest of `main` if unset."
    )
    split: str = Field(
        "train",
        description="Split of a data set; also `train[:1000]` and the like, but for `save_to_disk`'s.",
    )
    image_column: str | None = Field(
        None, description="Column of the pictures of a data set; one with a usual name if unset."
    )
    caption_column: str | None = Field(
        None,
        description="Column of the captions of a data set, texts or lists of texts; one with a usual name if "
        "unset.",
    )
    mask_column: str | None = Field(
        None,
        description="Column of the masks of a data set, for `mask: files`; one named `mask` if unset.",
    )
    streaming: bool = Field(
        False,
        description="Read Parquet files or a data set of the Hub piece by piece while training, without a "
        "copy on this disk. WebDataset's `.tar` files always are.",
    )
    shuffle_buffer: Positive = Field(
        1000,
        description="Pictures of a stream that are held in memory at a time and trained on in random order.",
    )

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.dataset is not None and not _HUB_ID.fullmatch(self.dataset):
            yield Fault(
                f"{self.dataset!r} is not the id of a data set on the Hub.",
                "data.dataset",
                "Write OWNER/NAME. A data set on this machine is given like a folder of pictures.",
            )

    @property
    def about_rows(self) -> list[str]:
        """The settings that are given and have no meaning for a folder of pictures."""
        names = [n for n in RowsSection.model_fields if n != "dataset"] + ["control_column"]
        return [f"data.{n}" for n in names if n in type(self).model_fields and self._given(n)]
