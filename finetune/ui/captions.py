"""Captions of pictures, read and changed where they are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticCustomError

from finetune.config.base import check_text
from finetune.data.folder import Picture
from finetune.data.layouts.beside import SUFFIXES, read_text
from finetune.data.layouts.offer import LONGEST_CAPTION
from finetune.errors import DataError, PlaceError, UserError
from finetune.files import whole_file
from finetune.recipes.place import in_use
from finetune.ui.roots import Roots
from finetune.watching.seen import look


def caption_file(picture: Picture) -> Path:
    """The file in which a picture's caption is written, or would be.

    Raises:
        DataError: If the caption comes from elsewhere, or the picture is no file.
    """
    origin = picture.origin
    if not isinstance(origin, Path):
        raise DataError(
            "This picture is not a file of its own.", where=picture.name, fix="Change the data set."
        )
    there = [origin.with_suffix(suffix) for suffix in SUFFIXES if origin.with_suffix(suffix).is_file()]
    if there:
        return there[0]
    if picture.captioned:
        raise DataError(
            "The caption of this picture is not in a file beside it, but in the folder's own list.",
            where=picture.name,
            fix="Change it there, such as in metadata.jsonl.",
        )
    return origin.with_suffix(SUFFIXES[0])


def written_caption(picture: Picture) -> str:
    """What the caption's file holds; empty if there is none.

    Raises:
        DataError: As `caption_file`.
    """
    file = caption_file(picture)
    try:
        return read_text(file).strip("\n") if file.exists() else ""
    except ValueError as error:
        raise DataError(f"The caption {error}.", where=str(file)) from None


def save_caption(picture: Picture, text: str, roots: Roots) -> Path:
    """Writes a picture's caption, whole or not at all.

    Args:
        picture: As the check of its folder found it.
        text: The caption, or one a line; without any the file is removed, and the picture gets the default.
        roots: Whose runs may be using it.

    Returns:
        The file.

    Raises:
        UserError: If the caption cannot be changed there, or a run that is running is trained on it.
    """
    file = roots.inside(caption_file(picture), "caption")
    text = text.strip()
    if len(text) > LONGEST_CAPTION:
        raise UserError(
            f"This is longer than {LONGEST_CAPTION:,} characters.", where=file.name, fix="Shorten it."
        )
    try:
        check_text(text)
    except PydanticCustomError as error:
        raise UserError(f"A caption must be {error.message()}.", where=file.name, fix="Rewrite it.") from None
    for run in roots.runs():
        if in_use(run) is not None and any(file.is_relative_to(folder) for folder in folders_of(run, roots)):
            raise PlaceError(
                "A run is being trained on these pictures; with other captions it could not be resumed.",
                where=roots.shown(run),
                fix="Wait until it ends, or stop it.",
            )
    if not text:
        file.unlink(missing_ok=True)
        return file
    with whole_file(file) as aside:
        aside.write_text(f"{text}\n", encoding="utf-8")
    return file


def folders_of(run: Path, roots: Roots) -> Iterator[Path]:
    """The folders of pictures that a run's recipe names, resolved."""

    def named(values: Any) -> Iterator[str]:
        for key, value in values.items() if isinstance(values, dict) else ():
            if isinstance(value, str) and key.endswith("dir"):
                yield value
            for entry in value if isinstance(value, list) else ():
                yield from named(entry)

    for name in named(look(run).recipe.get("data", {})):
        yield (roots.folders[0] / Path(name).expanduser()).resolve()
