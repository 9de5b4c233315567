"""Sentences about what a folder holds that its owner may not expect (promise P3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.data.decode import SUFFIXES

# Pictures that people do have in their folders, and must convert first.
_UNSUPPORTED = (".psd", ".svg", ".dng", ".cr2", ".nef", ".arw")


def listing(names: Sequence[str], limit: int = 5) -> str:
    """Names in one line, shortened: "a.png, b.png and 7 more"."""
    shown, more = ", ".join(names[:limit]), len(names) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 picture", "2 pictures"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def unsupported(path: Path) -> bool:
    """Whether this is a picture in a format that is not supported."""
    return path.suffix.lower() in _UNSUPPORTED


def holds_pictures(folder: Path) -> bool:
    """Whether a folder itself holds a file named like a picture."""
    try:
        return any(e.suffix.lower() in SUFFIXES and not e.name.startswith(".") for e in folder.iterdir())
    except OSError:
        return False


def caption_notes(captions: Mapping[str, str], own: int, prompt: str | None, default: str) -> list[str]:
    """Says where captions come from.

    Args:
        captions: Caption by file name.
        own: How many come from a text file.
        prompt: What the user gave for the others.
        default: What the others got.
    """
    notes, others = [], len(captions) - own
    if not others and prompt is not None:
        notes.append(f'the prompt "{prompt}" is not used: every picture has a caption file')
    elif others and prompt is None:
        which = f"{count(others, 'picture')} without a caption file" if own else "no caption files"
        notes.append(f'{which}: the folder\'s name is the trigger word, "{default}"')
    elif others and own:
        notes.append(f'{count(own, "caption")} from .txt files, the others get the prompt "{prompt}"')
    empty = [name for name, caption in captions.items() if not caption]
    return [*notes, f"empty caption: {listing(empty)}"] if empty else notes


def duplicate_notes(digests: Mapping[str, str]) -> list[str]:
    """Names files that hold the same bytes; takes digests by file name."""
    first: dict[str, str] = {}
    return [
        f"{name} is the same file as {first[digest]}; both are used"
        for name, digest in digests.items()
        if first.setdefault(digest, name) != name
    ]


def ignored_notes(files: Sequence[Path], subfolders: Sequence[Path]) -> list[str]:
    """Names the folder's files and subfolders that are ignored."""
    stems = {f.stem for f in files if f.suffix.lower() in SUFFIXES or unsupported(f)}
    others = [f for f in files if f.suffix.lower() not in SUFFIXES and not unsupported(f)]
    orphans = [f.name for f in others if f.suffix == ".txt" and f.stem not in stems]
    rest = [f.name for f in others if f.suffix != ".txt"]
    filled = [s.name for s in subfolders if holds_pictures(s)]
    found = {
        "text without a picture of the same name": orphans,
        "not pictures, ignored": rest,
        "subfolders with pictures are not searched": filled,
    }
    return [f"{what}: {listing(names)}" for what, names in found.items() if names]
