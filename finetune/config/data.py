"""The pictures and what is said about them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from finetune.config.base import Fraction, Section


class DataSection(Section):
    """The pictures and what is said about them."""

    instance_dir: Path | None = Field(
        None, description="Folder of pictures of the subject; `NAME.txt` beside a picture is its caption."
    )
    instance_prompt: str | None = Field(
        None,
        description="Caption of the pictures that have no .txt file. Without it the folder's name "
        'is the trigger word: ./mycat trains on "a photo of mycat".',
    )
    resolution: Annotated[int, Field(ge=32, le=4096, multiple_of=8)] | None = Field(
        None, description="Side in pixels that pictures are resized and cropped to; the model's own if unset."
    )
    crop: Literal["center", "random"] = Field(
        "center", description="Which square of a picture that is not square is used."
    )
    flip: bool = Field(False, description="Mirror every second sample at random.")
    caption_dropout: Fraction = Field(
        0.0, description="Share of samples trained with an empty caption (for classifier-free guidance)."
    )
    preserve: list[str] = Field(
        [],
        description="Prompts that must go on meaning what they mean to the pretrained model, such as "
        '"a photo of a cat" while one cat is taught. Needs no pictures of them.',
    )
    preserve_share: Fraction = Field(
        0.5, description="Share of samples spent on `preserve`, if it names any prompts."
    )
    cache: bool = Field(
        True,
        description="Keep latents (and text embeddings of frozen encoders) instead of computing them anew.",
    )
    cache_dir: Path | None = Field(
        None, description="Folder for cached latents, found by content; in memory only if unset."
    )
