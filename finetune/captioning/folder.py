"""Which pictures of a folder have no caption, and writing theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from finetune.captioning.captioner import Caption
from finetune.data.decode import PictureError, decode_picture, reading
from finetune.data.encoded import Progress
from finetune.data.layouts import Skipped, list_folder
from finetune.data.read import bytes_of
from finetune.data.rows import is_dataset
from finetune.errors import DataError, memory_ran_out
from finetune.files import whole_file

Describe = Callable[[Sequence[Image.Image]], list[Caption]]
_SIDE = 1024  # pixels; models see less of a picture, and a batch of photographs is gigabytes


@dataclass(frozen=True)
class Uncaptioned:
    """What there is to do in a folder.

    Attributes:
        pictures: Those without a caption, by path.
        captioned: How many pictures have one.
        skipped: Pictures and folders that cannot be read, and why.
    """

    pictures: tuple[Path, ...]
    captioned: int
    skipped: tuple[Skipped, ...]


@dataclass
class Captioned:
    """What was done.

    Attributes:
        written: The caption of each file that was written.
        cut: Those of them that ended because they may have only so many tokens.
        skipped: Pictures that have no caption still, and why.
    """

    written: dict[Path, str] = field(default_factory=dict)
    cut: list[Path] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)


def find_uncaptioned(folder: Path) -> Uncaptioned:
    """Looks for pictures that no caption is given for, in any of the layouts that training understands.

    Pictures that differ only in their suffix share a caption file, and the first of them is described.

    Raises:
        DataError: If there is no such folder, no picture in it, or it is a data set of `datasets`.
    """
    if is_dataset(folder):
        raise DataError(
            "This is a data set of `datasets`, and captions are written beside files of pictures.",
            where=str(folder),
            fix="Add a column of captions with `datasets`, or give a folder of pictures.",
        )
    listed = list_folder(folder)
    if not listed.found:
        raise DataError(
            "There are no pictures in this folder, nor in those below it.",
            where=str(folder),
            fix="Give the folder that holds the pictures.",
        )
    missing: dict[Path, Path] = {}
    for one in listed.found:
        if not one.captions:
            missing.setdefault(one.path.with_suffix(""), one.path)
    captioned = sum(bool(one.captions) for one in listed.found)
    return Uncaptioned(tuple(missing.values()), captioned, listed.skipped)


def write_captions(
    pictures: Sequence[Path],
    describe: Describe,
    *,
    prefix: str = "",
    batch_size: int = 1,
    progress: Progress | None = None,
    done: Captioned | None = None,
) -> Captioned:
    """Writes `NAME.txt` beside each picture, as soon as its batch is described; nothing is overwritten.

    Args:
        pictures: Their files.
        describe: From pictures (RGB) to a caption of each.
        prefix: Text before each caption. A comma follows it, unless it ends in punctuation.
        batch_size: Pictures that are described at once.
        progress: Called with the number of pictures that are done and their total.
        done: Is filled, so that it tells what was written until an interrupt.
    """
    done = Captioned() if done is None else done
    with reading() as pool:
        for start in range(0, len(pictures), batch_size):
            batch = pictures[start : start + batch_size]
            for path, said in zip(batch, _described(batch, describe, pool), strict=True):
                _write(path, said, prefix, done)
            if progress:
                progress(start + len(batch), len(pictures))
    return done


def _write(picture: Path, said: Caption | PictureError, prefix: str, done: Captioned) -> None:
    if isinstance(said, PictureError):
        done.skipped.append(Skipped(picture, str(said)))
        return
    file, joint = picture.with_suffix(".txt"), ", " if prefix[-1:].isalnum() else " "
    caption = f"{prefix}{joint}{said.text}".strip()
    if os.path.lexists(file):
        done.skipped.append(Skipped(picture, f"{file.name} was written meanwhile, and is left as it is"))
        return
    with whole_file(file) as aside:
        aside.write_text(f"{caption}\n", encoding="utf-8")
    done.written[file] = caption
    if not said.whole:
        done.cut.append(file)


def _described(pictures: Sequence[Path], describe: Describe, pool: Executor) -> list[Caption | PictureError]:
    """The caption of each picture, or why it has none."""
    read = list(pool.map(_read, pictures))
    images = [image for image in read if isinstance(image, Image.Image)]
    said = iter(_attempt(images, describe) if images else [])
    return [next(said) if isinstance(one, Image.Image) else one for one in read]


def _read(path: Path) -> Image.Image | PictureError:
    try:
        image = decode_picture(bytes_of(path)).image
    except PictureError as reason:
        return reason
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    return image


def _attempt(images: Sequence[Image.Image], describe: Describe) -> list[Caption | PictureError]:
    """Describes pictures at once; if that fails, one by one, to find the picture that it fails at."""
    try:
        return [
            said if said.text else PictureError("the model says nothing about it")
            for said in describe(images)
        ]
    except Exception as error:  # each model has its own words for a picture that it cannot take
        if memory_ran_out(error):
            raise
        if len(images) == 1:
            return [PictureError(f"the model cannot describe it ({error})")]
        return [result for image in images for result in _attempt([image], describe)]
