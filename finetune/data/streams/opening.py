"""What the user named → a stream, and its first pictures as a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from finetune.config import DataSection, PairsSection
from finetune.data.cache import content_key
from finetune.data.decode import SUFFIXES
from finetune.data.folder import Folder
from finetune.data.notes import EMPTY, caption_notes, holds_pictures, listing, picture_notes
from finetune.data.read import Reader
from finetune.data.record import Entry
from finetune.data.rows.columns import find_columns, undecoded
from finetune.data.rows.library import explained, quiet_datasets
from finetune.data.rows.opening import builder_of, check_split, hub_builder
from finetune.data.streams.rows import Rows
from finetune.data.streams.stream import Block, Cursor, Stream
from finetune.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import DatasetBuilder, Features

_FIRST = 100
"""Pictures that are looked at before the training: captions for previews, and what is odd about them."""
_ENDS = 64 * 1024
_NAMES = 200
_PATTERN = "*?["
_TEXTS = (".txt", ".text")


def is_stream(folder: Path | None, data: DataSection) -> bool:
    """Whether pictures are read as a stream: if the settings say so, or they are in `.tar` files.

    Args:
        folder: A folder, a file, or a pattern such as `shards/*.tar`; None for the Hub id `data.dataset`.
        data: The recipe's settings.
    """
    if data.streaming or folder is None:
        return data.streaming
    files = _files(folder)
    return bool(files) and files[0].suffix == ".tar" and not (folder.is_dir() and holds_pictures(folder))


def _files(folder: Path) -> list[Path]:
    """The shards that a path names."""
    if folder.is_file():
        return [folder]
    if any(sign in folder.name for sign in _PATTERN) and not folder.exists():
        return sorted(folder.parent.glob(folder.name))
    for suffix in (".tar", ".parquet"):
        if files := sorted(f for pattern in ("*", "*/*") for f in folder.glob(pattern + suffix)):
            return files
    return []


def scan_stream(folder: Path | None, prompt: str | None, data: DataSection, reader: Reader) -> Folder:
    """Opens a stream and reads its first pictures, in the order of its shards.

    Args:
        folder: As in `is_stream`.
        prompt: The caption of pictures that have none; "a photo of FOLDER" if None.
        data: The recipe's settings.
        reader: How pictures are read.

    Raises:
        DataError: If there is no such data set, it cannot be read as a stream, or no picture can be used.
        ConfigError: If a folder for caches is given.
    """
    if data.cache_dir is not None:
        raise ConfigError(
            "What a stream shows is not kept: it would take as much of the disk as its pictures.",
            where="data.cache_dir",
            fix="Leave it out.",
        )
    with quiet_datasets():
        stream = _opened(folder, prompt, data)
        block = Block(stream, reader, _FIRST, None, 0, Cursor())
        first = block.folder()
    captions = {p.name: p.captions for p in first.pictures}
    own = sum(p.captioned for p in first.pictures)
    notes = caption_notes(captions, own, 0, prompt, stream.how.default)
    if stream.how.paired:
        empty = [name for name, texts in captions.items() if "" in texts]
        notes = [f"{EMPTY}: {listing(empty)}"] if empty else []
    notes += picture_notes((one.picture.name, note) for one in block.shown for note in one.notes)
    return replace(first, notes=(*stream.notes, *notes), stream=stream, revision=stream.revision)


def _opened(folder: Path | None, prompt: str | None, data: DataSection) -> Stream:
    place = str(data.dataset if folder is None else folder)
    with explained(place):
        builder = hub_builder(data) if folder is None else _local(folder, data)
        files = {str(split): [*map(str, own)] for split, own in (builder.config.data_files or {}).items()}
        if not files:
            raise DataError(
                "This data set cannot be read as a stream: it has no files, or they are only in the cache.",
                where=place,
                fix="Connect to the network, or leave data.streaming out.",
            )
        check_split(data.split, list(files), place)
        shards = files[data.split]
        if not builder.info.features and "webdataset" in type(builder).__module__:
            builder.info.features = _features(shards[0])
        dataset = builder.as_streaming_dataset(split=data.split)
    if dataset.features is None or dataset.num_shards != len(shards):
        raise DataError(
            "This data set cannot be read as a stream of shards.",
            where=place,
            fix="Use WebDataset or Parquet files, or leave data.streaming out.",
        )
    columns = find_columns(dataset.features, data, place)
    if isinstance(data, PairsSection) and data.has_controls and columns.control is None:
        columns_there = ", ".join(dataset.features)
        raise DataError(
            f"No column is known to hold the control pictures. The columns are: {columns_there}.",
            where=place,
            fix="Name it with data.control_column, or set data.preprocess to make them from the pictures.",
        )
    default = f"a photo of {Path(place).resolve().name}" if prompt is None else prompt
    paired = isinstance(data, PairsSection)
    how = Rows(columns, default, data.captions == "lines", paired)
    used = [columns.image, columns.caption, columns.control]
    used = [*filter(None, used), *(name for name in ("__key__",) if name in dataset.features)]
    entries = [_entry(file, shards) for file in shards]
    settings = f"{columns} {default} {how.lines} {paired} {data.background}"
    digest = content_key("stream", settings, *(f"{entry}" for entry in entries))
    notes = columns.notes(name for name in dataset.features if not name.startswith("__"))
    rows = undecoded(dataset.select_columns(used))
    revision = str(builder.hash) if folder is None else None
    return Stream(Path(place), rows, how, tuple(entries), digest, revision, tuple(notes))


def _features(shard: str) -> Features:
    """What a shard of WebDataset has of pictures and texts, by the names of its first files.

    `datasets` itself takes the first five samples for it, and refuses them if one has no caption.
    """
    from datasets import Features, Image, StreamingDownloadManager, Value

    names = [name for name, _ in islice(StreamingDownloadManager().iter_archive(shard), _NAMES)]
    endings = dict.fromkeys(PurePosixPath(name).name.partition(".")[2] for name in names)
    kinds = {ending: PurePosixPath(f"0.{ending}").suffix.lower() for ending in endings if ending}
    found = {ending: Image() for ending, kind in kinds.items() if kind in SUFFIXES}
    found |= {ending: Value("string") for ending, kind in kinds.items() if kind in _TEXTS}
    return Features({**found, "__key__": Value("string"), "__url__": Value("string")})


def _local(folder: Path, data: DataSection) -> DatasetBuilder:
    """Of files on this machine."""
    files = _files(folder)
    if not files or files[0].suffix not in {".tar", ".parquet"}:
        raise DataError(
            "There is nothing here that can be read as a stream.",
            where=str(folder),
            fix="Give .tar (WebDataset) or .parquet files, or leave data.streaming out.",
        )
    if folder.is_dir():
        return builder_of(str(folder))
    kind = "webdataset" if files[0].suffix == ".tar" else "parquet"
    return builder_of(kind, data_files={data.split: [str(file) for file in files]})


def _entry(file: str, files: Sequence[str]) -> Entry:
    """What a shard is.

    Of a file on this disk its size and the SHA-256 of its first and last 64 KiB: reading all of it would take
    as long as an epoch. The address of one on the Hub has the revision in it.
    """
    path = Path(file)
    name = _relative(file, files)
    if not path.is_file():
        return {"file": name, "content": file}
    with path.open("rb") as opened:
        size = path.stat().st_size
        ends = opened.read(_ENDS)
        opened.seek(max(0, size - _ENDS))
        ends += opened.read()
    return {"file": name, "content": f"{size} {hashlib.sha256(ends).hexdigest()}"}


def _relative(file: str, files: Sequence[str]) -> str:
    """A shard's name: its address without what all of them begin with."""
    folders = [other.rpartition("/")[0].split("/") for other in files]
    same = 0
    while all(len(own) > same and own[same] == folders[0][same] for own in folders):
        same += 1
    return "/".join(file.split("/")[same:])
