"""A data set of Hugging Face's `datasets` → what it offers, as a folder of pictures does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from finetune.config import DataSection
from finetune.data.layouts.offer import Found, Listing, Skipped, too_long
from finetune.data.origin import Origin
from finetune.data.rows.columns import Columns, bytes_and_path, captions_of, find_columns, undecoded
from finetune.data.rows.library import explained
from finetune.data.rows.opening import Opened, open_dataset
from finetune.files import shown

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_AT_ONCE = 1000  # rows


@dataclass(frozen=True, slots=True)
class Row:
    """A picture in a row of a data set; an `Origin`.

    Attributes:
        dataset: The rows, which are read from disk when they are asked for.
        title: What people call the data set and its split.
        index: The row's number.
        column: The picture's column.
    """

    dataset: Dataset = field(repr=False)
    title: str
    index: int
    column: str

    def read_bytes(self) -> bytes:
        """The bytes of the picture's file.

        Raises:
            OSError: If the rows cannot be read.
        """
        data, _ = bytes_and_path(self.dataset[self.index][self.column])
        assert data is not None  # or it would not have been listed
        return data

    def __str__(self) -> str:
        return f"{self.title}[{self.index}].{self.column}"


def list_rows(folder: Path | None, data: DataSection) -> Listing[Origin]:
    """Finds the pictures of a data set and what is said about them, by their rows; none is decoded.

    A picture is called what its file was called, if no other one is; else after its row: `train[123]`.

    Args:
        folder: A folder that `is_dataset`; None for the Hub id `data.dataset`.
        data: The recipe's settings.

    Raises:
        DataError: If there is no such data set, it cannot be read, or its columns are not understood.
    """
    opened = open_dataset(folder, data)
    columns = find_columns(opened.dataset.features, data, str(opened.place))
    with explained(str(opened.place)):
        rows = [*_rows(opened, columns)]
    alike = Counter(row.file for row in rows)
    found: list[Found[Origin]] = []
    skipped: list[Skipped[Origin]] = []
    for index, row in enumerate(rows):
        name = row.file if row.file and alike[row.file] == 1 else f"{opened.split}[{index}]"
        captions = captions_of(row.caption, data.captions == "lines")
        reason = row.fault or too_long(captions, f"the column {columns.caption}")
        if reason or row.image is None:
            skipped.append(Skipped(opened.place, str(reason), name))
        else:
            found.append(Found(row.image, captions, None, 1, row.mask, row.control, name))
    notes = columns.notes(opened.dataset.features)
    root = opened.place.with_suffix("") if opened.place.is_file() else opened.place
    return Listing(root, tuple(found), (*opened.notes, *notes), tuple(skipped), revision=opened.revision)


@dataclass(frozen=True, slots=True)
class _Cells:
    """What is used of a row; `fault` says why it cannot be."""

    file: str
    caption: Any
    image: Origin | None
    control: Origin | None
    mask: Origin | None
    fault: str


def _rows(opened: Opened, columns: Columns) -> Iterator[_Cells]:
    """All rows in their order; of pictures only where their bytes are."""
    dataset = undecoded(opened.dataset)
    title = f"{opened.place}: {opened.split}"
    one = {column: dataset.select_columns([column]) for column in columns.pictures}
    index = 0
    for table in dataset.select_columns(columns.used).with_format("arrow").iter(_AT_ONCE):
        captions = table[columns.caption].to_pylist() if columns.caption else [None] * len(table)
        cells = {column: [*_places(table[column])] for column in columns.pictures}
        for number, caption in enumerate(captions):
            origins: dict[str, Origin | None] = {}
            faults: list[str] = []
            for column in columns.pictures:
                held, path = cells[column][number]
                row = Row(one[column], title, index, column)
                origins[column], fault = _origin(row, held, path, opened)
                faults += [f"its {column} {fault}"] if fault and column != columns.mask else []
            yield _Cells(
                _file_name(cells[columns.image][number][1]),
                caption,
                origins[columns.image],
                origins.get(columns.control or ""),
                origins.get(columns.mask or ""),
                faults[0] if faults else "",
            )
            index += 1


def _places(column: pa.ChunkedArray) -> Iterator[tuple[bool, str | None]]:
    """For each cell whether it holds bytes, and the path it gives. No bytes are read."""
    import pyarrow as pa
    from pyarrow import compute

    if pa.types.is_struct(column.type):
        held = compute.struct_field(column, "bytes").is_valid().to_pylist()
        yield from zip(held, compute.struct_field(column, "path").to_pylist(), strict=True)
    elif pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        yield from ((False, path) for path in column.to_pylist())
    else:
        yield from ((held, None) for held in column.is_valid().to_pylist())


def _origin(row: Row, held: bool, path: str | None, opened: Opened) -> tuple[Origin | None, str]:
    """Where a picture's bytes are; or None and why there are none, as words that follow its column."""
    if held:
        return row, ""
    if not path:
        return None, "is missing"
    if "://" in path:
        return None, "is an address, and nothing is fetched from there; download the pictures"
    if opened.revision is not None and not Path(path).is_absolute():
        return None, "is only the name of a file"
    return (opened.place if opened.place.is_dir() else opened.place.parent) / path, ""


def _file_name(path: str | None) -> str:
    """What a picture's file was called, relative to its folder if that is known."""
    if not path:
        return ""
    pure = PurePosixPath(path)
    return shown(pure.name if pure.is_absolute() or "://" in path else str(pure))
