"""Caption files beside the pictures: `NAME.txt`, or `NAME.caption` as kohya's tools write them."""

from __future__ import annotations

from pathlib import Path

from finetune.data.layouts.offer import LONGEST_CAPTION, Offer, split
from finetune.data.layouts.tree import Tree
from finetune.data.notes import count

SUFFIXES = (".txt", ".caption")
"""Endings of caption files; where a picture has both, the first wins."""


def beside(tree: Tree, lines: bool) -> Offer:
    """Captions in files with the name of their picture and a suffix of `SUFFIXES`, in any case."""
    offer = Offer("caption files")
    texts: dict[tuple[Path, str], list[Path]] = {}
    for file in tree.files:
        if file.suffix.lower() in SUFFIXES and (file.parent, file.stem) in tree.by_stem:
            texts.setdefault((file.parent, file.stem), []).append(file)
    twice: list[str] = []
    for key, files in texts.items():
        offer.used |= set(files)
        chosen, *others = sorted(files, key=lambda file: SUFFIXES.index(file.suffix.lower()))
        twice += [tree.name(other) for other in others]
        try:
            captions = split(read_text(chosen), lines)
        except ValueError as reason:
            offer.aside |= dict.fromkeys(tree.by_stem[key], f"its caption {chosen.name} {reason}")
        else:
            offer.captions |= dict.fromkeys(tree.by_stem[key], captions)
    if twice:
        example = "" if len(twice) == 1 else f", such as {twice[0]}"
        what = twice[0] if len(twice) == 1 else count(len(twice), "caption file")
        offer.notes.append(f"{what} not used, since a .txt file of the same name wins{example}")
    return offer


def read_text(path: Path) -> str:
    """The text of a caption file.

    Raises:
        ValueError: With the reason, as words that follow the file's name.
    """
    try:
        # A file that is too large for a caption is read only far enough to see it.
        with path.open(encoding="utf-8-sig") as file:
            text = file.read(8 * LONGEST_CAPTION)
    except UnicodeDecodeError:
        # Reading it in another encoding would be a guess.
        raise ValueError("is not UTF-8 text; save it as UTF-8") from None
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror})") from None
    if any(len(caption) > LONGEST_CAPTION for caption in split(text, lines=False)):
        raise ValueError(f"is longer than {LONGEST_CAPTION:,} characters")
    return text
