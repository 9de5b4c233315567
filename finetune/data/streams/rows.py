"""A row of a stream → a picture whose bytes are in memory, and its control picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from finetune.data.decode import PictureError
from finetune.data.folder import Picture, read_picture
from finetune.data.layouts import Skipped
from finetune.data.layouts.offer import too_long
from finetune.data.origin import Origin
from finetune.data.preprocess import alike
from finetune.data.read import Reader
from finetune.data.rows.columns import Columns, bytes_and_path, captions_of
from finetune.files import shown

Row = Mapping[str, Any]
"""Values by column."""


@dataclass(frozen=True)
class InMemory:
    """Bytes that were read already; an `Origin`.

    Attributes:
        name: What people know them by.
        data: The bytes.
    """

    name: str
    data: bytes = field(repr=False)

    def read_bytes(self) -> bytes:
        """The bytes."""
        return self.data

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Rows:
    """How rows become pictures.

    Attributes:
        columns: What they mean.
        default: The caption of pictures without one.
        lines: Whether each line of a caption is a caption of its own.
        paired: Whether each picture has a control picture: itself, without a column for them.
    """

    columns: Columns
    default: str
    lines: bool = False
    paired: bool = False


@dataclass(frozen=True)
class Shown:
    """What a row shows.

    Attributes:
        picture: The picture.
        control: Its control picture, if there are such.
        notes: What its owner should know about it.
    """

    picture: Picture
    control: Picture | None
    notes: tuple[str, ...]


def read_row(row: Row, place: str, how: Rows, reader: Reader) -> Shown | Skipped[Origin]:
    """Reads the pictures of a row in full; call it inside the reader's `map`.

    Args:
        row: The row.
        place: Its shard, and its number there if its picture has no name of its own.
        how: What its columns mean.
        reader: How pictures are read.
    """
    _, path = bytes_and_path(row[how.columns.image])
    name = shown(f"{place}/{path}" if path else place)
    captions = captions_of(row[how.columns.caption], how.lines) if how.columns.caption else ()
    try:
        if reason := too_long(captions, f"the column {how.columns.caption}"):
            raise PictureError(reason)
        origin = _held(row, how.columns.image, name)
        picture, notes = read_picture(origin, name, captions or (how.default,), reader)
        control = _control(row, name, picture, how, reader) if how.paired else None
    except PictureError as reason:
        return Skipped(InMemory(name, b""), str(reason), name)
    return Shown(replace(picture, captioned=bool(captions)), control, notes)


def _control(row: Row, name: str, picture: Picture, how: Rows, reader: Reader) -> Picture:
    if (column := how.columns.control) is None:
        return picture
    try:
        control, _ = read_picture(_held(row, column, f"{name} {column}"), f"{name} {column}", ("",), reader)
    except PictureError as reason:
        raise PictureError(f"its control picture: {reason}") from None
    sizes = (control.width, control.height), (picture.width, picture.height)
    if not alike(*sizes):
        own, other = (f"{width}x{height}" for width, height in sizes)
        raise PictureError(f"its control picture is {own}, but it is {other}")
    return control


def _held(row: Row, column: str, name: str) -> InMemory:
    data, path = bytes_and_path(row[column])
    if data is None:
        held = "only the path of a picture" if path else "no picture"
        raise PictureError(f"its column {column} holds {held}")
    return InMemory(name, data)
