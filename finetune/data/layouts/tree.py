"""The files below a folder, in the same order on every system; nothing is opened."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from finetune.data.decode import SUFFIXES
from finetune.data.layouts.offer import Skipped
from finetune.data.notes import holds_pictures, listing, unsupported
from finetune.data.origin import Origin
from finetune.data.read import not_a_file
from finetune.errors import DataError
from finetune.files import shown

_RUN_FILES = {"recipe.yaml", "pictures.jsonl"}


def relative_name(path: Origin, root: Path) -> str:
    r"""The name of a file for people: relative to `root`, with `/`, if it is below it.

    Two files never have the same: a line break becomes `\n`, and a backslash `\\`.
    """
    if not isinstance(path, Path):
        return shown(str(path))
    name, start = path.as_posix(), root.as_posix().rstrip("/") + "/"
    return shown(name.removeprefix(start).replace("\\", "\\\\"))


@dataclass(frozen=True)
class Tree:
    """What is below a folder.

    Attributes:
        root: The folder.
        files: Its regular files, by relative name.
        skipped: Pipes, devices, links to nothing, and folders that cannot be read.
        notes: Lines about folders that were not searched.
        elsewhere: Folders that other settings give, without links.
    """

    root: Path
    files: tuple[Path, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    elsewhere: Collection[str] = ()

    @cached_property
    def pictures(self) -> tuple[Path, ...]:
        """The files that are named like pictures, in any format."""
        return tuple(f for f in self.files if f.suffix.lower() in SUFFIXES or unsupported(f))

    @cached_property
    def by_stem(self) -> Mapping[tuple[Path, str], list[Path]]:
        """The pictures of each folder and name without its suffix."""
        found: dict[tuple[Path, str], list[Path]] = {}
        for picture in self.pictures:
            found.setdefault((picture.parent, picture.stem), []).append(picture)
        return found

    def name(self, path: Path) -> str:
        """The file as people see it."""
        return relative_name(path, self.root)

    def names(self, paths: list[Path]) -> str:
        """Files in one line, shortened."""
        return listing([self.name(path) for path in paths])


def walk(
    folder: Path, *, nested: bool = True, leave_out: Mapping[Path, str] | None = None, setting: str = ""
) -> Tree:
    """Lists a folder. Hidden files and folders are left out, and no folder is visited twice.

    Args:
        folder: The folder.
        nested: Whether its subfolders are searched.
        leave_out: Folders that other settings give; the setting of each.
        setting: The setting that gives `folder`, for errors.

    Raises:
        DataError: If there is no such folder, or it cannot be read.
    """
    where = f"{setting} = {folder}" if setting else str(folder)
    _check(folder, where)
    other = {os.path.realpath(path): name for path, name in (leave_out or {}).items()}
    files: list[Path] = []
    skipped: list[Skipped] = []
    unsearched: dict[str, list[str]] = {}
    seen: set[str] = set()
    folders, links = [folder], list[Path]()
    while folders or links:
        # Links come last, so that a folder that is here twice goes by its own name.
        here = folders.pop() if folders else links.pop(0)
        try:
            entries = _entries(here, folder, seen, other)
        except OSError as error:
            if here == folder:
                raise DataError(
                    f"The folder cannot be read: {error.strerror}.", where=where, fix="Check its permissions."
                ) from error
            skipped.append(Skipped(here, f"the folder cannot be read ({error.strerror})"))
            continue
        if isinstance(entries, str):
            unsearched.setdefault(entries, []).append(relative_name(here, folder))
            continue
        inside: list[Path] = []
        for entry in entries:
            path, kind = here / entry.name, _kind(entry)
            if kind == "file":
                files.append(path)
            elif kind != "folder":
                skipped.append(Skipped(path, kind))
            elif nested:
                (links if entry.is_symlink() else inside).append(path)
            elif holds_pictures(path):
                unsearched.setdefault("data.nested is false", []).append(relative_name(path, folder))
        folders += reversed(inside)
        links.sort()
    notes = [f"not searched for pictures: {listing(names)} ({why})" for why, names in unsearched.items()]
    return Tree(folder, tuple(sorted(files, key=Path.as_posix)), tuple(skipped), tuple(notes), other)


def _entries(
    here: Path, root: Path, seen: set[str], other: Mapping[str, str]
) -> list[os.DirEntry[str]] | str:
    """The visible entries of a folder by name, or why it is not searched."""
    real = os.path.realpath(here)
    if real in seen:
        return "a link to a folder that is searched already"
    seen.add(real)
    if here != root and real in other:
        return f"it is {other[real]}"
    entries = sorted(os.scandir(here), key=lambda entry: entry.name)
    if here != root and {entry.name for entry in entries} >= _RUN_FILES:
        return "a run folder"
    return [entry for entry in entries if not entry.name.startswith(".")]


def above(path: Path, root: Path) -> Iterator[Path]:
    """The folders that a file below `root` is in, from its own up to and with `root`."""
    for folder in path.parents:
        yield folder
        if folder == root:
            return


def _kind(entry: os.DirEntry[str]) -> str:
    """`file`, `folder`, or why it is neither."""
    try:
        if entry.is_dir():
            return "folder"
    except OSError:  # a link to itself
        pass
    return not_a_file(Path(entry.path)) or "file"


def _check(folder: Path, where: str) -> None:
    if not folder.exists():
        raise DataError("There is no such folder.", where=where, fix="Check the path for typos.")
    if not folder.is_dir():
        raise DataError(
            "This is a file, but a folder of pictures is needed.",
            where=where,
            fix=f"Give the folder that holds the pictures, e.g. {folder.parent}.",
        )
