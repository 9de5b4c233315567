"""`metadata.jsonl`, `.csv` and `.parquet`: one row a picture, as Hugging Face's imagefolder has them.

The format: https://huggingface.co/docs/datasets/image_dataset#imagefolder
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.data.layouts.offer import clean
from finetune.errors import DataError
from finetune.files import shown

METADATA = "metadata.jsonl"
# As `datasets` names the columns of an image folder, and as published data sets do.
_PICTURE = ("file_name", "image", "image_file_name")
_CONTROL = ("conditioning_image", "conditioning_image_file_name", "control")
_TEXT = ("text", "caption", "prompt")

_HALVES = re.compile("[\ud800-\udbff]")  # halves of characters, which no file's name holds
_Rows = Iterator[tuple[str, Mapping[str, Any]]]


@dataclass(frozen=True)
class Row:
    """What the metadata says about a picture.

    Attributes:
        picture: The picture's file, which may not exist.
        control: Its conditioning picture's file.
        captions: Empty if the row has none.
    """

    picture: Path
    control: Path | None
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Metadata:
    """A metadata file.

    Attributes:
        path: The file.
        rows: In its order.
        unused: Names of the columns that mean nothing here.
    """

    path: Path
    rows: tuple[Row, ...]
    unused: tuple[str, ...]


def metadata_in(folder: Path) -> list[Path]:
    """The metadata files of a folder; the first of them counts."""
    places = [folder / f"metadata{suffix}" for suffix in _READERS]
    return [path for path in places if os.path.isfile(path)]  # unlike pathlib's, with names too long


def read_metadata(path: Path) -> Metadata:
    """Reads a metadata file.

    Raises:
        DataError: If it cannot be read or a row makes no sense; the row is named.
    """
    rows: list[Row] = []
    unused: dict[str, None] = {}
    for where, row in _READERS[path.suffix](path):
        picture, control = _file(row, _PICTURE, where), _file(row, _CONTROL, where)
        if picture is None:
            raise DataError(
                "This line names no picture.",
                where=where,
                fix='Give each picture a `file_name`, as in {"file_name": "1.png", "text": "a red cat"}.',
            )
        inside = [None if name is None else _inside(path.parent, name) for name in (picture, control)]
        assert inside[0] is not None
        rows.append(Row(inside[0], inside[1], _captions(row, where)))
        unused |= dict.fromkeys(shown(str(key)) for key in row if key not in _PICTURE + _CONTROL + _TEXT)
    return Metadata(path, tuple(rows), tuple(unused))


def _inside(folder: Path, name: str) -> Path:
    return folder / os.path.normpath(name)


def _file(row: Mapping[str, Any], keys: Sequence[str], where: str) -> str | None:
    key = next((key for key in keys if row.get(key) is not None), None)
    if key is None:
        return None
    if not isinstance(row[key], str) or "\0" in row[key] or _HALVES.search(row[key]):
        raise DataError(
            f"`{key}` is not a string that names a file.", where=where, fix="Put the file's name in quotes."
        )
    return str(row[key])


def _captions(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    key = next((key for key in _TEXT if row.get(key) is not None), None)
    if key is None:
        return ()
    texts = [row[key]] if isinstance(row[key], str) else row[key]
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise DataError(
            f"`{key}` is not a string, nor a list of strings.", where=where, fix="Put its value in quotes."
        )
    return tuple(map(clean, texts))


def _json_lines(path: Path) -> _Rows:
    # Not `splitlines`: a caption may hold other separators of lines.
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            content = error
        where = f"{path}, line {number}"
        if not isinstance(content, dict):
            raise DataError("This line is not a JSON object.", where=where, fix="Fix the line.")
        yield where, content


def _csv(path: Path) -> _Rows:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise DataError(
                    "This line has more values than there are columns.",
                    where=where,
                    fix='Put captions that hold a comma in quotes: 1.png,"a cat, sitting".',
                )
            yield where, {key: value or None for key, value in row.items()}
    except csv.Error as error:
        raise DataError(
            f"This is not CSV: {error}.", where=f"{path}, line {reader.line_num}", fix="Fix the line."
        ) from error


def _parquet(path: Path) -> _Rows:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise DataError(
            "Reading Parquet needs the package datasets.",
            where=str(path),
            fix="Run pip install datasets.",
        ) from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"The metadata cannot be read: {reason}", where=str(path), fix="Write the file again."
        ) from error
    for number, row in enumerate(rows, 1):
        yield f"{path}, row {number}", row


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise DataError(
            f"The metadata cannot be read: {reason}.", where=str(path), fix="Save it as UTF-8."
        ) from error


_READERS: dict[str, Callable[[Path], _Rows]] = {".jsonl": _json_lines, ".csv": _csv, ".parquet": _parquet}
