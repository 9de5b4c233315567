"""The pictures and their captions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer
from typing_extensions import Self

from finetune.config.base import Amount, Fault, Fraction, Need, Positive
from finetune.config.rows import RowsSection
from finetune.config.sources import KEY, SOURCES, SourceSection, SubjectSourceSection, source_faults

Resolution = Annotated[int, Field(ge=32, le=4096, multiple_of=8)]


def is_color(name: str) -> bool:
    """Whether Pillow knows a color by this name, or it is `#rrggbb`."""
    from PIL import ImageColor  # only here, so that --help is fast

    return name.lower() in ImageColor.colormap or re.fullmatch(r"#[0-9a-fA-F]{6}", name) is not None


class DataSection(RowsSection):
    """How pictures are prepared, for every recipe."""

    needs: ClassVar[tuple[Need, ...]] = (
        *RowsSection.needs,
        Need("data.bucket_step", "buckets", example="true"),
        Need("data.bucket_ratio", "buckets", example="true"),
        Need("data.variants", "cache", example="true"),
    )

    resolution: Resolution | None = Field(
        None,
        description="Side in pixels of the square that pictures are resized to; with `buckets`, other shapes "
        "have as many pixels. The model's own if unset.",
    )
    extra_resolutions: list[Resolution] = Field(
        [], description="Resolutions at which each picture is trained too, beside `resolution`."
    )
    buckets: bool = Field(
        True,
        description="Train each picture in the shape nearest to its own, of a table of shapes; otherwise all "
        "are cropped to squares.",
    )
    bucket_step: Annotated[int, Field(ge=8, le=4096, multiple_of=8)] | None = Field(
        None,
        description="Pixels by which the shapes' sides differ; 64, or a quarter of a smaller resolution, if "
        "unset.",
    )
    bucket_ratio: Annotated[float, Field(gt=1, le=100, allow_inf_nan=False)] = Field(
        3.0, description="How many times longer than wide the longest shape may be."
    )
    crop: Literal["center", "random"] = Field(
        "center",
        description="Which part of a picture is kept that must be cropped; `random`: drawn for each sample.",
    )
    crop_warning: Fraction = Field(
        0.1, description="Pictures that lose more than this share of their area to cropping are named."
    )
    flip: bool = Field(False, description="Mirror samples at random, with probability 0.5.")
    color_jitter: Fraction = Field(
        0.0,
        description="How much brightness, contrast, saturation and hue of each sample are changed at random; "
        "0.1 is mild.",
    )
    variants: Annotated[int, Field(ge=2, le=1000)] = Field(
        8,
        description="With `crop: random` or `color_jitter`, how many crops and colors of each picture there "
        "are, all of them encoded beforehand. Without `cache` there is no end of them.",
    )
    nested: bool = Field(True, description="Also search the folder's subfolders for pictures.")
    captions: Literal["whole", "lines"] = Field(
        "whole",
        description="`lines`: each line of a caption file is a caption of its own; each sample draws one.",
    )
    caption_dropout: Fraction = Field(
        0.0, description="Share of samples trained with an empty caption (for classifier-free guidance)."
    )
    cache: bool = Field(
        True,
        description="Keep latents (and text embeddings of frozen encoders) instead of recomputing them.",
    )
    cache_dir: Path | None = Field(
        None,
        description="Folder for cached latents, and for what is known of each picture, keyed by content; in "
        "memory only if unset. `finetune cache` looks after it.",
    )

    background: str = Field(
        "white",
        description="Color seen through transparent parts: a name such as `gray`, or `#rrggbb` (in quotes).",
    )

    mask: Literal["none", "alpha", "files"] = Field(
        "none",
        description="`alpha`: the loss counts only where the pictures are opaque. `files`: only where "
        "`NAME-masklabel.png` beside each picture is white.",
    )
    mask_dir: Path | None = Field(
        None,
        description="Folder of masks named like the pictures; the loss counts only where they are white.",
    )
    unmasked_weight: Fraction = Field(
        0.0, description="How much the loss counts where a mask is black or a picture transparent."
    )

    validation: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0,
        description="Share of the pictures that is not trained on, chosen by content; its loss goes to "
        "validation.jsonl.",
    )
    validation_dir: Path | None = Field(
        None, description="Folder of pictures to validate with, instead of a share."
    )
    validation_every: Positive = Field(100, description="Steps between validations.")

    sources: tuple[SourceSection, ...] = Field((), description=SOURCES)

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        if self.validation and self.validation_dir is not None:
            yield Fault(
                "Pictures to validate with are given twice: by a share and by a folder.",
                "data.validation",
                "Remove data.validation or data.validation_dir.",
            )
        if self._given("validation_every") and not self.validation and self.validation_dir is None:
            yield Fault(
                "data.validation_every has no effect without pictures to validate with.",
                "data.validation_every",
                "Set data.validation=0.1 or data.validation_dir, or remove it.",
            )
        if self._given("variants") and not self.varied:
            yield Fault(
                "data.variants has no effect while neither crops nor colors are drawn at random.",
                "data.variants",
                "Set data.crop=random or data.color_jitter=0.1, or remove it.",
            )
        if not is_color(self.background):
            yield Fault(
                f"{self.background!r} is not a color.",
                "data.background",
                'Use a name such as white, gray or black, or six hex digits: "#808080".',
            )
        if self.mask != "none" and self.mask_dir is not None:
            yield Fault(
                f"Masks are given twice: by data.mask={self.mask} and by a folder.",
                "data.mask",
                "Remove data.mask or data.mask_dir.",
            )
        if self.unmasked_weight and not self.masked:
            yield Fault(
                "data.unmasked_weight has no effect without masks.",
                "data.unmasked_weight",
                "Give masks with data.mask_dir or data.mask=alpha, or remove data.unmasked_weight.",
            )
        if self.cache_dir is not None and not self.cache:
            yield Fault(
                "A cache folder is given, but caching is off.",
                "data.cache_dir",
                "Leave it out, or set data.cache to true.",
            )
        if self.cache_dir is not None and self.cache_dir.exists() and not self.cache_dir.is_dir():
            yield Fault(
                "The cache folder is a file.",
                "data.cache_dir",
                "Give a folder; it is created if it does not exist.",
            )

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves `sources` out where there are none, as in files of runs that are older than it."""
        values: dict[str, Any] = handler(self)
        return {key: value for key, value in values.items() if key != "sources" or value}

    def unclear(self, folder_field: str) -> Iterator[Fault]:
        """What is wrong with the places of pictures that are given.

        Args:
            folder_field: The setting that names the main folder.
        """
        main: Path | None = getattr(self, folder_field)
        flag = "--" + folder_field.replace("_", "-")
        if main is None and self.dataset is None and not any(source.taught for source in self.sources):
            fix = f"Give a folder with {flag}, or a data set of the Hub with data.dataset."
            yield Fault("No pictures are given.", f"data.{folder_field}", fix)
        if main is not None and self.dataset is not None:
            fix = f"Remove {flag} or data.dataset."
            yield Fault("Pictures are given twice: by a folder and by a data set.", "data.dataset", fix)
        place = main or (Path(self.dataset) if self.dataset else None)
        yield from source_faults(folder_field, place, self.sources)

    def folders(self) -> dict[Path, str]:
        """The folders that are given, each with the setting that gives it."""
        given = [(f"data.{name}", path) for name, path in self]
        given += [(KEY, path) for source in self.sources for _, path in source]
        return {path.expanduser(): key for key, path in given if isinstance(path, Path)}

    @property
    def varied(self) -> bool:
        """Whether crops or colors are drawn at random."""
        return self.crop == "random" or self.color_jitter > 0

    @property
    def masked(self) -> bool:
        """Whether the loss counts only in parts of the pictures."""
        return self.mask != "none" or self.mask_dir is not None

    def of_class(self) -> Self:
        """The same settings for pictures of the class: they have no masks, and keep their colors."""
        without = {"mask": "none", "mask_dir": None, "unmasked_weight": 0.0, "color_jitter": 0.0}
        return self.model_copy(update=without)


class SubjectSection(DataSection):
    """A few pictures of one subject, and of the class it belongs to."""

    needs: ClassVar[tuple[Need, ...]] = (
        *DataSection.needs,
        Need("data.preserve_share", "preserve", example='["a photo of a cat"]'),
    )

    sources: tuple[SubjectSourceSection, ...] = Field((), description=SOURCES)

    instance_dir: Path | None = Field(
        None,
        description="Folder of pictures of the subject, in any layout of docs/data.md; `NAME.txt` beside a "
        "picture is its caption.",
    )
    instance_prompt: str | None = Field(
        None,
        description="Caption of the pictures that have none of their own. Without it the folder's name "
        'is the trigger word: ./mycat trains on "a photo of mycat".',
    )
    class_prompt: str | None = Field(
        None,
        description='Prompt for the subject\'s class, such as "a photo of a cat": turns on prior '
        "preservation, training on class pictures too, so that the class stays as it is.",
    )
    class_dir: Path | None = Field(
        None,
        description="Folder of class pictures; missing ones are sampled into it. If unset, a folder "
        "in runs/class-pictures that every run with this model and class prompt shares.",
    )
    num_class_images: Positive = Field(200, description="Number of class pictures; missing ones are sampled.")
    prior_weight: Amount = Field(1.0, description="λ: weight of the class pictures' loss.")
    preserve: list[str] = Field(
        [],
        description="Prompts that must keep the meaning they have to the pretrained model, such as "
        '"a photo of a cat" while one cat is learned. Needs no pictures of them.',
    )
    preserve_share: Fraction = Field(
        0.5, description="Share of samples spent on `preserve`, if it names any prompts."
    )

    @property
    def class_sources(self) -> tuple[SourceSection, ...]:
        """Those of `sources` that are of the class."""
        return tuple(source for source in self.sources if source.class_pictures)

    @property
    def preserves_class(self) -> bool:
        """Whether class pictures are trained on too."""
        return self.class_prompt is not None or bool(self.class_sources)

    def faults(self) -> Iterator[Fault]:
        """As `Section.faults`."""
        yield from super().faults()
        for key in ("class_dir", "num_class_images", "prior_weight"):
            needed = not self.preserves_class if key == "prior_weight" else self.class_prompt is None
            if needed and self._given(key):
                yield Fault(
                    f"Requires --class-prompt: data.{key} is about pictures of the class.",
                    f"data.{key}",
                    'Give --class-prompt, such as "a photo of a cat", or leave this out.',
                )


class CaptionedSection(DataSection):
    """Any number of pictures with captions."""

    data_dir: Path | None = Field(
        None,
        description="Folder of captioned pictures, in any layout of docs/data.md; `NAME.txt` beside a "
        "picture is its caption.",
    )
