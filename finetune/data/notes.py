"""Sentences about what a folder holds that its owner may not expect (promise P3)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from finetune.data.decode import SUFFIXES
from finetune.data.preprocess import Placement, Size

# Pictures that people do have in their folders, and must convert first.
_UNSUPPORTED = (".psd", ".svg", ".dng", ".cr2", ".nef", ".arw")


MANY = 20
"""Most lines about skipped files."""

NAMED = 5
"""Most files that a line names. If more are left out, the run folder has a list of all of them."""

EMPTY = "empty caption"
"""How the note of such pictures begins."""


def listing(names: Sequence[str], limit: int = NAMED) -> str:
    """Names in one line, shortened: "a.png, b.png and 7 more"."""
    shown, more = ", ".join(names[:limit]), len(names) - limit
    return f"{shown} and {more} more" if more > 0 else shown


def skipped_notes(skipped: Iterable[tuple[str, str]], limit: int = MANY) -> list[str]:
    """Lines about files that are not trained on, as many as a person reads; those of one reason together.

    Args:
        skipped: Name and reason of each.
        limit: Most lines.
    """
    alike = by_reason(skipped)
    lines = [f"skipped {listing(list(files))}: {reason}" for reason, files in alike.items()]
    more = sum(len(files) for files in list(alike.values())[limit:])
    return [*lines[:limit], f"skipped {count(more, 'more file')}"] if more else lines


def by_reason(skipped: Iterable[tuple[str, str]]) -> dict[str, dict[str, str]]:
    """The files of each reason.

    Args:
        skipped: Name and reason of each. What is in parentheses at the end of a reason are details, such as
            a library's own words.

    Returns:
        For each reason the names of its files with the details in which they differ.
    """
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name, reason in skipped:
        what, _, details = (
            reason.removesuffix(")").partition(" (") if reason.endswith(")") else (reason, "", "")
        )
        found.setdefault(what, {})[name] = (reason, details)
    told: dict[str, dict[str, str]] = {}
    for what, files in found.items():
        reasons = {reason for reason, _ in files.values()}
        if len(reasons) == 1:
            told[reasons.pop()] = dict.fromkeys(files, "")
        else:
            told[what] = {name: details for name, (_, details) in files.items()}
    return told


def picture_notes(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Lines about what was done to pictures; takes name and note of each, and says each note once."""
    return [f"{listing(names)}: {note}" for note, names in _by_last(notes).items()]


def _by_last(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for first, last in pairs:
        found.setdefault(last, []).append(first)
    return found


def count(number: int, noun: str) -> str:
    """A number with its noun: "1 picture", "2 pictures"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def pixels(size: Size) -> str:
    """A size as people write it, width first: "640x384"."""
    return f"{size[1]}x{size[0]}"


def shapes_note(sizes: Sequence[Size]) -> str:
    """At which sizes pictures are trained: "at 512x512 pixels", "in 2 shapes: 512x512 (4), 640x384 (2)"."""
    shapes = Counter(sizes).most_common()
    if len(shapes) == 1:
        return f"at {pixels(shapes[0][0])} pixels"
    return f"in {len(shapes)} shapes: {listing([f'{pixels(size)} ({n})' for size, n in shapes], 8)}"


def cropped_notes(placements: Sequence[tuple[str, Placement]], limit: float) -> list[str]:
    """Names the pictures that are enlarged, and those that lose more than `limit` of their area."""
    small = [f"{name} ({pixels(p.original)} to {pixels(p.size)})" for name, p in placements if p.enlarged]
    lost = sorted(((p.lost, name) for name, p in placements if p.lost > limit), reverse=True)
    found = {
        "enlarged, because smaller than they are trained at": small,
        f"cropped by more than {limit:.0%}": [f"{name} ({share:.0%})" for share, name in lost],
    }
    return [f"{what}: {listing(names)}" for what, names in found.items() if names]


def unsupported(path: Path) -> bool:
    """Whether this is a picture in a format that is not supported."""
    return path.suffix.lower() in _UNSUPPORTED


def holds_pictures(folder: Path) -> bool:
    """Whether a folder itself holds a file named like a picture."""
    try:
        return any(e.suffix.lower() in SUFFIXES and not e.name.startswith(".") for e in folder.iterdir())
    except OSError:
        return False


def caption_notes(
    captions: Mapping[str, Sequence[str]],
    own: int,
    said: int,
    prompt: str | None,
    default: str,
    place: str = "folder",
) -> list[str]:
    """Says where captions come from.

    Args:
        captions: Captions by file name.
        own: How many pictures have captions of their own.
        said: How many have the caption that their folder's layout says.
        prompt: What the user gave for the others.
        default: What the others got.
        place: What the pictures are in: "folder", "data set".
    """
    notes, others = [], len(captions) - own - said
    if own == len(captions) and prompt is not None:
        notes.append(f'the prompt "{prompt}" is not used: every picture has a caption')
    elif others and prompt is None:
        which = f"{count(others, 'picture')} without a caption" if own or said else "no captions"
        notes.append(f'{which}: the {place}\'s name is the trigger word, "{default}"')
    elif others and own:
        notes.append(f'{count(own, "picture")} with a caption, the others get the prompt "{prompt}"')
    empty = [name for name, texts in captions.items() if "" in texts]
    return [*notes, f"{EMPTY}: {listing(empty)}"] if empty else notes


def duplicate_notes(digests: Mapping[str, str]) -> list[str]:
    """Names files that hold the same bytes, at most five; takes digests by file name."""
    first: dict[str, str] = {}
    notes = [
        f"{name} is the same file as {first[digest]}; both are used"
        for name, digest in digests.items()
        if first.setdefault(digest, name) != name
    ]
    more = len(notes) - 5
    return [*notes[:5], f"{count(more, 'more file')} that others repeat; all are used"] if more > 0 else notes
