"""What the user named → an opened data set of Hugging Face's `datasets`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune.config import DataSection
from finetune.data.layouts import walk
from finetune.data.rows.library import explained, offline_at_once, quiet_datasets
from finetune.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset, DatasetBuilder

SUFFIXES = (".parquet", ".arrow")
# Of the formats that `datasets` reads. Among the others are pickles (promise P6).
_KEPT = "cache"  # what it read before, whatever the format
_SAFE = {"parquet", "arrow", "imagefolder", "webdataset", "json", "csv", _KEPT}
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"


@dataclass(frozen=True)
class Opened:
    """An open data set.

    Attributes:
        dataset: Its rows, mapped from disk.
        place: The folder, or the Hub id as a path.
        split: The split's name.
        revision: The commit on the Hub, if it is from there.
        notes: Lines for the user.
    """

    dataset: Dataset
    place: Path
    split: str
    revision: str | None = None
    notes: tuple[str, ...] = ()


def is_dataset(folder: Path) -> bool:
    """Whether a folder is a data set rather than a folder of pictures; or a file is one.

    It is what `save_to_disk` wrote, or holds Parquet or Arrow files (in its subfolders too) and no pictures.
    """
    if folder.is_file():
        return folder.suffix in SUFFIXES
    if _is_saved(folder):
        return True
    return bool(_tables(folder)) and not walk(folder).pictures


def _is_saved(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (_SAVED, _SAVED_SPLITS))


def _tables(folder: Path) -> list[Path]:
    """Files of rows; a `metadata.parquet` speaks of pictures beside it."""
    found = [
        file for pattern in ("*", "*/*") for suffix in SUFFIXES for file in folder.glob(pattern + suffix)
    ]
    return sorted(file for file in found if file.stem != "metadata" and not file.name.startswith("."))


def open_dataset(folder: Path | None, data: DataSection) -> Opened:
    """Opens the split of a data set.

    Of a Hub data set, what is not in the cache of `datasets` yet is downloaded first. Nothing that comes with
    it is run.

    Args:
        folder: A folder or file for which `is_dataset` holds; None for the Hub id `data.dataset`.
        data: The recipe's settings.

    Raises:
        DataError: If there is no such data set, configuration, revision or split, or it cannot be read.
    """
    with quiet_datasets():
        if folder is None:
            return _of_hub(data)
        if not _is_saved(folder):
            file = {"data_files": str(folder)} if folder.is_file() else {}
            path = folder.suffix[1:] if file else str(folder)
            with explained(str(folder)):
                return Opened(_prepared(builder_of(path, **file), data, str(folder)), folder, data.split)
        return _of_disk(folder, data)


def _of_disk(folder: Path, data: DataSection) -> Opened:
    from datasets import Dataset, load_from_disk

    with explained(str(folder)):
        saved = load_from_disk(str(folder))
    if not isinstance(saved, Dataset):
        check_split(data.split, list(saved), str(folder))
        return Opened(saved[data.split], folder, data.split)
    own = str(saved.split or "train")
    check_split(data.split, [own], str(folder))
    return Opened(saved, folder, own)


def _of_hub(data: DataSection) -> Opened:
    name = str(data.dataset)
    with explained(name):
        builder = hub_builder(data)
        dataset = _prepared(builder, data, name)
    kept = " from the cache, since the Hub does not answer for it" if _kind(builder) == _KEPT else ""
    note = f"data set {name}, split {data.split}, revision {builder.hash}{kept}"
    return Opened(dataset, Path(name), data.split, str(builder.hash), (note,))


def hub_builder(data: DataSection) -> DatasetBuilder:
    """The data set of the Hub that the settings name, known but not downloaded; its `hash` is the revision.

    Call it inside `quiet_datasets` and `explained`.

    Raises:
        DataError: If it is in a format that is not read.
    """
    with offline_at_once():
        builder = builder_of(str(data.dataset), name=data.dataset_config, revision=data.revision)
    # The cache is not asked for a revision.
    if _kind(builder) == _KEPT and data.revision not in {None, builder.hash}:
        raise DataError(
            f"The Hub does not answer for this data set, and in the cache is revision {builder.hash}.",
            where=f"data.revision = {data.revision}",
            fix="Connect to the network and check the revision, or name the one in the cache.",
        )
    return builder


def builder_of(path: str, **options: Any) -> DatasetBuilder:
    """A data set of a kind that is read, known but not prepared.

    Raises:
        DataError: If it is of another kind.
    """
    from datasets import load_dataset_builder

    builder = load_dataset_builder(path, **options)
    if _kind(builder) not in _SAFE:
        raise DataError(
            f"Data sets of the kind {_kind(builder)!r} are not read.",
            where=path,
            fix="Use one of Parquet, Arrow or WebDataset files, or of pictures.",
        )
    return builder


def _kind(builder: DatasetBuilder) -> str:
    return type(builder).__module__.rpartition(".")[2]


def _prepared(builder: DatasetBuilder, data: DataSection, where: str) -> Dataset:
    builder.download_and_prepare()
    check_split(data.split, list(builder.info.splits), where, parts=True)
    return builder.as_dataset(split=data.split)


def check_split(split: str, known: list[str], where: str, parts: bool = False) -> None:
    """Refuses a split that is not there.

    Args:
        split: As the user gave it.
        known: The splits that are there.
        where: The data set, for the message.
        parts: Whether it may also be `train[:100]` or `train+test`.

    Raises:
        DataError: Naming those that are.
    """
    asked = {part.partition("[")[0] for part in split.split("+")} if parts else {split}
    if not asked <= {*known}:
        raise DataError(
            f"There is no split {split!r}; there is {', '.join(known)}.",
            where=where,
            fix=f"Set data.split={known[0]}." if known else "Give another data set.",
        )
