"""Data sets that hold the pictures of a folder, made with `datasets` and pyarrow."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from pyarrow import parquet


def cells(files: list[Path]) -> list[dict[str, Any]]:
    """The files' bytes and names, as `datasets` stores pictures."""
    return [{"bytes": file.read_bytes(), "path": file.name} for file in files]


def dataset(columns: dict[str, list[Any]], **types: Any) -> Dataset:
    """A data set whose columns are texts, or of the types given."""
    features = {name: types.get(name, Value("string")) for name in columns}
    return Dataset.from_dict(columns, features=Features(features))


def of_folder(folder: Path) -> Dataset:
    """The pictures of a folder in the order of their names, and the text beside each or null."""
    files = sorted(folder.glob("*.png"))
    texts = [file.with_suffix(".txt") for file in files]
    said = [text.read_text() if text.exists() else None for text in texts]
    return dataset({"image": cells(files), "text": said, "label": ["x"] * len(files)}, image=Image())


def _saved(rows: Dataset, place: Path, folder: Path) -> Path:
    rows.save_to_disk(str(place))
    return place


def _splits(rows: Dataset, place: Path, folder: Path) -> Path:
    DatasetDict({"test": rows.select([0]), "train": rows}).save_to_disk(str(place))
    return place


def _parquets(rows: Dataset, place: Path, folder: Path) -> Path:
    (place / "data").mkdir(parents=True)
    for number, part in enumerate([rows.select(range(2)), rows.select(range(2, len(rows)))]):
        part.to_parquet(str(place / "data" / f"train-{number:05}-of-00002.parquet"))
    rows.select([0]).to_parquet(str(place / "data" / "test-00000-of-00001.parquet"))
    (place / "README.md").write_text("# Pictures\n")
    return place


def _one_parquet(rows: Dataset, place: Path, folder: Path) -> Path:
    place.mkdir()
    rows.to_parquet(str(place / "mycat.parquet"))
    return place / "mycat.parquet"


def _arrows(rows: Dataset, place: Path, folder: Path) -> Path:
    _saved(rows, place.with_name("aside"), folder)
    place.mkdir()
    for file in place.with_name("aside").glob("*.arrow"):
        shutil.copy(file, place)
    return place


def _plain(kind: pa.DataType, pick: Callable[[dict[str, Any]], Any]) -> Callable[[Dataset, Path, Path], Path]:
    """Parquet that knows nothing of `datasets`."""

    def make(rows: Dataset, place: Path, folder: Path) -> Path:
        place.mkdir()
        images = pa.array([pick(cell) for cell in cells(sorted(folder.glob("*.png")))], kind)
        table = pa.table({"image": images, "text": rows["text"][:]})
        parquet.write_table(table, place / "mycat.parquet")
        return place

    return make


def _beside(rows: Dataset, place: Path, folder: Path) -> Path:
    """Rows that name the pictures' files, which are elsewhere."""
    shutil.copytree(folder, place.with_name("files"))
    place.mkdir()
    paths = [f"../files/{file.name}" for file in sorted(folder.glob("*.png"))]
    parquet.write_table(pa.table({"image": paths, "text": rows["text"][:]}), place / "mycat.parquet")
    return place


STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FORMS: dict[str, Callable[[Dataset, Path, Path], Path]] = {
    "save_to_disk": _saved,
    "save_to_disk with splits": _splits,
    "folder of Parquet": _parquets,
    "one Parquet": _one_parquet,
    "folder of Arrow": _arrows,
    "Parquet of structs": _plain(STRUCT, lambda cell: cell),
    "Parquet of bytes": _plain(pa.large_binary(), lambda cell: cell["bytes"]),
    "Parquet of paths": _beside,
}
"""Each writes the rows that `of_folder` made of a folder to a place, and says what to give a recipe."""

LISTS = List(Value("string"))
