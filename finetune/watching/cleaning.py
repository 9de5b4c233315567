"""Removing what a run needs only to go on: its checkpoints, and what killed writers left behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from finetune.errors import ConfigError
from finetune.files import is_partial, remove_folder
from finetune.recipes.place import owned
from finetune.watching.seen import Seen, checkpoint_folders, look, size_of


@dataclass(frozen=True)
class Cleanup:
    """What can be removed of a run.

    Attributes:
        run: The run.
        places: Files and folders to remove; results, recipe, metrics and samples are never among them.
        size: Of all of them, in bytes.
    """

    run: Seen
    places: tuple[Path, ...]
    size: int

    @property
    def loses(self) -> str:
        """What the run cannot do afterwards, in a few words."""
        if self.run.state == "finished":
            return "cannot be trained for longer, or exported as of an earlier step"
        return f"is not finished and cannot be resumed from step {self.run.step}"


def cleanup(path: Path) -> Cleanup:
    """Finds what can be removed of a run; removes nothing.

    Raises:
        ConfigError: If it is no run.
    """
    seen = look(path)
    places = list(checkpoint_folders(seen.folder))
    partials = [p for p in sorted(path.rglob("*.partial")) if is_partial(p)]
    places += [p for p in partials if not set(p.parents) & {*places, *partials}]
    return Cleanup(seen, tuple(places), sum(map(size_of, places)))


def remove(found: Cleanup) -> None:
    """Removes what was found; meanwhile the folder is locked, so that no run begins to use it.

    Raises:
        ConfigError: If the run is in use.
    """
    with owned(found.run.folder.path) as owner:
        if owner is not None:
            raise busy(found.run.folder.path)
        for place in found.places:
            if place.is_dir() and not place.is_symlink():
                remove_folder(place)
            else:
                place.unlink(missing_ok=True)


def busy(path: Path) -> ConfigError:
    """The error for a run that is in use."""
    return ConfigError(
        "This run is training now, and needs its checkpoints.",
        where=str(path),
        fix="Wait until it ends, or stop it first.",
    )
