"""Pictures with control pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from typing_extensions import Self

from finetune.config.base import Fault, Fraction, Need
from finetune.config.data import CaptionedSection
from finetune.config.sources import KEY, SOURCES, PairsSourceSection

ControlKind = Literal["none", "canny", "edges", "grayscale"]
"""How a control picture is made from a picture."""

Level = Annotated[int, Field(ge=0, le=1000)]


class PairsSection(CaptionedSection):
    """Pictures with captions, each with a control picture (ControlNet)."""

    needs: ClassVar[tuple[Need, ...]] = (
        *CaptionedSection.needs,
        Need("data.canny_thresholds", "preprocess", ("canny",)),
    )

    data_dir: Path | None = Field(
        None,
        description="Folder of pictures; with a metadata.jsonl (.csv, .parquet) in it, whose lines give "
        "`file_name`, `text` and `conditioning_image`, it holds the control pictures too.",
    )
    sources: tuple[PairsSourceSection, ...] = Field((), description=SOURCES)
    conditioning_dir: Path | None = Field(
        None, description="Folder of control pictures named like those in `data_dir`."
    )
    control_column: str | None = Field(
        None, description="Column of the control pictures of a data set; one with a usual name if unset."
    )
    preprocess: ControlKind = Field(
        "none",
        description="Make the control pictures from the pictures: Canny edges, soft edges, or grayscale. "
        "`none`: they are given.",
    )
    canny_thresholds: tuple[Level, Level] = Field(
        (100, 200), description="For `canny`: the low and the high hysteresis threshold."
    )
    prompt: str | None = Field(
        None, description="Caption of the pictures that have none of their own; empty if unset."
    )
    control_dropout: Fraction = Field(
        0.0, description="Share of samples trained with a black control picture, so that it may be left out."
    )

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.conditioning_dir is not None and self.preprocess != "none":
            yield Fault(
                "Control pictures are both given by a folder and made from the pictures.",
                "data.preprocess",
                "Remove data.preprocess or data.conditioning_dir.",
            )
        if self.control_column is not None and not self.has_controls:
            other = "preprocess" if self.preprocess != "none" else "conditioning_dir"
            yield Fault(
                f"Control pictures are both in a column and given by data.{other}.",
                "data.control_column",
                f"Remove data.control_column or data.{other}.",
            )
        if self.preprocess != "none" and any(source.conditioning_dir for source in self.sources):
            yield Fault(
                "Control pictures are both given by folders and made from the pictures.",
                KEY,
                "Remove data.preprocess, or conditioning_dir from the entries.",
            )

    @property
    def has_controls(self) -> bool:
        """Whether the data set itself must hold the control pictures."""
        return self.preprocess == "none" and self.conditioning_dir is None

    def of(self, source: PairsSourceSection) -> Self:
        """The same settings for the pictures of a further folder."""
        main = () if self.data_dir is None else (PairsSourceSection(dir=self.data_dir),)
        own = {"data_dir": source.dir, "conditioning_dir": source.conditioning_dir, "prompt": source.prompt}
        own |= {"dataset": None, "dataset_config": None, "revision": None}
        return self.model_copy(update={**own, "sources": (*self.sources, *main)})
