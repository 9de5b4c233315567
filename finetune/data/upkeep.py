"""What is in a cache folder, whether it is intact, and making it smaller."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from finetune.data.cache import Kind
from finetune.data.encoded import Progress
from finetune.data.facts import FACTS, facts_files, intact_lines
from finetune.data.shards import Shard, shard_files, write_shard
from finetune.errors import ConfigError
from finetune.files import only_user, remove_partials, whole_file


@dataclass(frozen=True)
class Holding:
    """What a cache folder holds of one kind.

    Attributes:
        kind: `latents` and so on.
        entries: How many; None if they are not counted.
        size: Bytes of its files.
        used: When a run last used any of it, in seconds since 1970.
        encoders: Who made it.
    """

    kind: str
    entries: int | None
    size: int
    used: float
    encoders: tuple[str, ...]


@dataclass(frozen=True)
class Pruned:
    """What `prune` did: how many files are gone, their bytes, and the bytes that are left."""

    files: int
    size: int
    left: int


def holdings(folder: Path) -> list[Holding]:
    """What a cache folder holds, by kind.

    Raises:
        ConfigError: If it is not one.
    """
    _check(folder)
    found: list[Holding] = []
    for kind in sorted(path for path in folder.iterdir() if path.is_dir()):
        shards = list(_intact(kind)) if kind.name in get_args(Kind) else []
        files = [path for path in kind.rglob("*") if path.is_file()]
        entries = sum(map(len, shards)) if kind.name in get_args(Kind) else None
        if kind.name == FACTS:
            entries = sum(len(intact_lines(path)[0]) for path in facts_files(kind))
        encoders = tuple(sorted({shard.encoder for shard in shards if shard.encoder}))
        size, used = sum(map(_size, files)), max((path.stat().st_mtime for path in files), default=0.0)
        found.append(Holding(kind.name, entries, size, used, encoders))
    return found


def verify(folder: Path, progress: Progress | None = None) -> list[str]:
    """Reads every entry and removes those that are damaged; the intact ones of the same file stay.

    Returns:
        Each damaged file, and how much of it was.

    Raises:
        ConfigError: If it is not a cache folder, or cannot be written.
    """
    _check(folder)
    facts = facts_files(folder / FACTS)
    files, damaged = [*facts, *_files(folder)], list[str]()
    for done, path in enumerate(files, 1):
        with suppress(FileNotFoundError), path.open("rb"):  # another process may have removed it
            if found := _without_lines(path) if path in facts else _without_damage(path):
                damaged.append(f"{path.relative_to(folder)}: {found}")
        if progress:
            progress(done, len(files))
    return damaged


def _without_damage(path: Path) -> str | None:
    """Removes what is damaged of a file of entries; says how much that was, if any."""
    try:
        shard = Shard(path)
    except ValueError:
        path.unlink()
        return "damaged as a whole, removed"
    read = [(key, shard.read(row)) for row, key in enumerate(shard.keys())]
    good = {key: data for key, data in read if data is not None}
    if len(good) == len(read):
        return None
    if good:
        write_shard(path.parent, good, shard.encoder)
    path.unlink()
    return f"{len(read) - len(good)} of {len(read)} entries damaged, removed"


def _without_lines(path: Path) -> str | None:
    """As `_without_damage`, of a file of facts; what a run adds meanwhile may be lost, and is found again."""
    intact, damaged = intact_lines(path)
    if not damaged:
        return None
    with whole_file(path) as aside:
        aside.write_text("".join(f"\n{line}\n" for line in intact.values()), encoding="ascii")
    return f"{damaged} of {len(intact) + damaged} entries damaged, removed"


def prune(folder: Path, most: int) -> Pruned:
    """Removes the least recently used files of entries until all of a cache folder has at most `most` bytes.

    Raises:
        ConfigError: If it is not a cache folder, or a run uses it.
    """
    _check(folder)
    with ExitStack() as stack:
        for kind in (folder / name for name in get_args(Kind)):
            if kind.is_dir() and not stack.enter_context(only_user(kind)):
                raise ConfigError(
                    "A run is using this cache, and would have to encode again what is removed.",
                    where=str(folder),
                    fix="Wait until it has ended.",
                )
            remove_partials(kind)
        left = sum(_size(path) for path in folder.rglob("*") if path.is_file())
        files = size = 0
        for path in sorted(_files(folder), key=lambda path: path.stat().st_mtime):
            if left <= most:
                break
            own = _size(path)
            path.unlink()
            files, size, left = files + 1, size + own, left - own
    return Pruned(files, size, left)


def _check(folder: Path) -> None:
    if not any((folder / kind).is_dir() for kind in get_args(Kind)):
        raise ConfigError(
            "This is not a cache folder." if folder.is_dir() else "There is no such folder.",
            where=str(folder),
            fix="Give the folder that data.cache_dir names in your recipe, or the recipe.",
        )


def _files(folder: Path) -> list[Path]:
    return [path for kind in get_args(Kind) for path in shard_files(folder / kind)]


def _intact(folder: Path) -> Iterator[Shard]:
    for path in shard_files(folder):
        with suppress(ValueError):
            yield Shard(path)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it is gone
        return 0
