"""The folders that the page may look into, and what is found in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from finetune.errors import PlaceError
from finetune.recipes.place import RUNS
from finetune.watching.seen import RECIPE

_DEEPEST, _MOST_FOLDERS = 4, 3000  # what is searched for pictures, so that a home directory does no harm
_NEVER = {"node_modules", "site-packages", "__pycache__", "checkpoints", "samples", "model", "logs"}


@dataclass(frozen=True)
class Roots:
    """The folders that the page may look into.

    Attributes:
        folders: Resolved; the first is the working directory of all commands.
    """

    folders: tuple[Path, ...]

    @classmethod
    def of(cls, more: tuple[Path, ...] = ()) -> Roots:
        """The working directory, and more folders.

        Raises:
            PlaceError: If one is no folder.
        """
        for folder in more:
            if not folder.is_dir():
                raise PlaceError("There is no such folder.", where=f"--root {folder}", fix="Make it first.")
        return cls(tuple(dict.fromkeys((Path.cwd().resolve(), *(folder.resolve() for folder in more)))))

    def inside(self, path: str | Path, where: str) -> Path:
        """A path, resolved, links and `..` followed.

        Args:
            path: As a user gave it, relative to the working directory or absolute.
            where: What it was given for.

        Raises:
            PlaceError: If it leads out of all roots.
        """
        try:
            found = (self.folders[0] / Path(path).expanduser()).resolve()
        except (OSError, RuntimeError, ValueError):  # a circle of links, an unknown home, NUL
            found = None
        if found is None or not any(found.is_relative_to(root) for root in self.folders):
            raise PlaceError(
                "This is outside of the folders that the page may look into.",
                where=f"{where}: {path}",
                fix="Start finetune ui where your files are, or add their folder with --root.",
            )
        return found

    def shown(self, path: Path) -> str:
        """A path as short as commands understand it."""
        path = path.resolve()
        return os.path.relpath(path, self.folders[0]) if path.is_relative_to(self.folders[0]) else str(path)

    def picture_folders(self) -> list[tuple[str, int]]:
        """Folders with pictures in them and how many, by path; runs' own pictures are left out."""
        suffixes = set(Image.registered_extensions())
        found: list[tuple[str, int]] = []
        for looked, (folder, names) in enumerate(self._walk()):
            if looked == _MOST_FOLDERS:
                break
            if number := sum(Path(name).suffix.lower() in suffixes for name in names):
                found.append((self.shown(folder), number))
        return sorted(set(found))

    def _walk(self) -> Iterator[tuple[Path, list[str]]]:
        for root in self.folders:
            for place, folders, names in os.walk(root):
                deep = len(Path(place).relative_to(root).parts)
                folders[:] = sorted(
                    name for name in folders if deep < _DEEPEST and name[0] != "." and name not in _NEVER
                )
                if RECIPE in names:  # a run
                    folders.clear()
                else:
                    yield Path(place), names

    def runs(self) -> list[Path]:
        """Every run folder in the roots and in their `runs`, the one that began last first."""
        found = {
            entry.resolve()
            for root in self.folders
            for place in (root, root / RUNS)
            if place.is_dir()
            for entry in (place, *place.iterdir())
            if (entry / RECIPE).is_file()
        }
        inside = [run for run in found if any(run.is_relative_to(root) for root in self.folders)]
        return sorted(inside, key=lambda run: (run / RECIPE).stat().st_mtime, reverse=True)
