"""Files that go with pictures by their name, in a folder of their own: masks, control pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from finetune.data.layouts import walk
from finetune.data.notes import listing
from finetune.errors import DataError


def companions(
    names: Sequence[str], folder: Path, kind: str, setting: str
) -> tuple[list[Path | None], list[str]]:
    """For each picture, the file in another folder with its name, whatever the extension.

    A picture in a subfolder goes with the file of the same subfolder, or with one that has its name and is
    in the folder itself, if no other picture has that name.

    Args:
        names: The relative name of each.
        folder: The other folder.
        kind: What it holds, for messages: "masks".
        setting: The dotted key that gives the folder, for messages.

    Returns:
        The file that goes with each, or None; and a note of files that go with none.

    Raises:
        DataError: If the folder cannot be read, or two files would go with the same picture.
    """
    tree = walk(folder, setting=setting)
    found: dict[str, Path] = {}
    for file in tree.pictures:
        stem = _stem(tree.name(file))
        if found.setdefault(stem, file) != file:
            raise DataError(
                f"Two {kind} are for the same picture: {tree.name(found[stem])} and {tree.name(file)}.",
                where=f"{setting} = {folder}",
                fix="Remove one of them.",
            )
    alike = Counter(PurePosixPath(name).stem for name in names)
    chosen: list[Path | None] = []
    for name in names:
        stem = PurePosixPath(name).stem
        flat = found.get(stem) if alike[stem] == 1 else None
        chosen.append(found.get(_stem(name), flat))
    alone = [tree.name(file) for file in found.values() if file not in chosen]
    notes = [f"{kind} without a picture of the same name: {listing(alone)}"] if alone else []
    return chosen, notes


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
