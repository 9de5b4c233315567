"""Pictures that are set apart to validate with."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from finetune.data.folder import Folder
from finetune.data.pairs import PairedFolder
from finetune.errors import DataError

FolderT = TypeVar("FolderT", bound=Folder)


def split(folder: FolderT, share: float) -> tuple[FolderT, FolderT]:
    """Sets a share of the pictures apart, by their content, so that it stays when others are added.

    Args:
        folder: What was scanned.
        share: Of the pictures, above 0 and below 1; of few pictures it is met only roughly.

    Returns:
        The pictures to train on, and those set apart.

    Raises:
        DataError: If there would be none of either.
    """
    # The first 32 bits of a SHA-256 are as good as drawn at random, once and for all.
    apart = [int(picture.digest[:8], 16) < share * 2**32 for picture in folder.pictures]
    if all(apart) or not any(apart):
        what = "All" if all(apart) else "None"
        raise DataError(
            f"{what} of the {len(apart)} pictures would be held out for validation: their content decides.",
            where=f"data.validation = {share:g}, {folder.path}",
            fix="Give another share, or a folder of its own with data.validation_dir.",
        )
    return _only(folder, [not held for held in apart]), _only(folder, apart)


def _only(folder: FolderT, chosen: list[bool]) -> FolderT:
    pictures = tuple(p for p, use in zip(folder.pictures, chosen, strict=True) if use)
    if isinstance(folder, PairedFolder):
        controls = tuple(p for p, use in zip(folder.controls, chosen, strict=True) if use)
        return replace(folder, pictures=pictures, controls=controls)
    return replace(folder, pictures=pictures)
