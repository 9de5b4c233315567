"""What people's folders hold: one row a layout, one place where their offers meet."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from finetune.data.layouts.beside import SUFFIXES as TEXTS
from finetune.data.layouts.beside import beside
from finetune.data.layouts.huggingface import huggingface
from finetune.data.layouts.kohya import kohya_folders, kohya_json
from finetune.data.layouts.offer import Found, Listing, Offer, Skipped
from finetune.data.layouts.onetrainer import CONCEPTS, list_concepts, onetrainer, read_concepts
from finetune.data.layouts.tree import Tree, relative_name, walk
from finetune.data.notes import count, listing, picture_notes, unsupported

__all__ = ["LAYOUTS", "ORPHAN", "Found", "Listing", "Skipped", "list_folder", "relative_name", "walk"]

T = TypeVar("T")

ORPHAN = "text without a picture of the same name"
"""The reason why such a file is ignored."""

LAYOUTS: tuple[Callable[[Tree, bool], Offer], ...] = (
    onetrainer,
    kohya_folders,
    huggingface,
    kohya_json,
    beside,
)
"""Each looks at the files of a folder; the flag says whether each line of a text is a caption. A caption of
an earlier one wins."""


def list_folder(
    folder: Path,
    *,
    nested: bool = True,
    lines: bool = False,
    leave_out: Mapping[Path, str] | None = None,
    setting: str = "",
) -> Listing:
    """Finds the pictures of a folder, or of OneTrainer's concepts, and what is said about them.

    No picture is opened. Every file that is named like a picture is found or skipped with a reason, except
    for hidden ones and those in folders that a note names.

    Args:
        folder: The folder, or a file of concepts.
        nested: Whether subfolders are searched.
        lines: Whether each line of a caption file is a caption of its own.
        leave_out: Folders that other settings give; the setting of each.
        setting: The setting that gives `folder`, for errors.

    Raises:
        DataError: If there is no such folder, or something in it that must be read cannot be.
    """

    def concept(path: Path, nested: bool) -> Listing:
        return _join(walk(path, nested=nested, leave_out=leave_out), lines=True)

    if folder.is_file() and (concepts := read_concepts(folder)) is not None:
        return list_concepts(folder, concepts, concept)
    tree = walk(folder, nested=nested, leave_out=leave_out, setting=setting)
    own = _join(tree, lines)
    concepts = read_concepts(folder / CONCEPTS) if folder / CONCEPTS in tree.files else None
    if not concepts:
        return own
    if any(not concept.path.resolve().is_relative_to(folder.resolve()) for concept in concepts):
        note = f"{CONCEPTS} is not used, since it names folders elsewhere; give the file itself to use it"
        return replace(own, notes=(note, *own.notes))
    theirs = list_concepts(folder / CONCEPTS, concepts, concept)
    seen = set(map(os.path.realpath, [*_files_of(theirs.found), *(s.path for s in theirs.skipped)]))
    reason = f"no concept of {CONCEPTS} has it"
    others = [*own.skipped, *(Skipped(path, reason, tree.name(path)) for path in _files_of(own.found))]
    rest = [one for one in others if os.path.realpath(one.path) not in seen]
    skipped = _by_name([*theirs.skipped, *rest])
    return replace(theirs, root=folder, skipped=skipped, metadata=own.metadata)


def _join(tree: Tree, lines: bool) -> Listing:
    """What all layouts together make of a folder."""
    offers = [layout(tree, lines) for layout in LAYOUTS]
    skipped = list(tree.skipped)
    found: list[Found] = []
    disagreeing: dict[tuple[str, str], list[str]] = {}
    for picture in dict.fromkeys([*tree.pictures, *(path for offer in offers for path in offer.named)]):
        said = [(offer.source, offer.captions[picture]) for offer in offers if picture in offer.captions]
        if use := _first(picture, [offer.other_use for offer in offers]):
            skipped.append(Skipped(picture, use, meant=True))
            continue
        if reason := _reason(picture, offers, bool(said)):
            skipped.append(Skipped(picture, reason))
            continue
        for source, captions in said[1:]:
            if captions != said[0][1]:
                disagreeing.setdefault((said[0][0], source), []).append(tree.name(picture))
        repeats, default = _first(picture, [offer.folders for offer in offers]) or (1, None)
        found.append(
            Found(
                picture,
                said[0][1] if said else (),
                default,
                repeats,
                _first(picture, [offer.masks for offer in offers]),
                _first(picture, [offer.controls for offer in offers]),
            )
        )
    masks = {one.mask for one in found}
    ignored = _ignored(tree, offers)
    skipped = [replace(s, name=tree.name(s.path)) for s in skipped if s.path not in masks]
    notes = [note for offer in offers for note in offer.notes]
    notes += [
        f"captions both in {first} and in {second}, the former are used: {listing(names)}"
        for (first, second), names in disagreeing.items()
    ]
    return Listing(
        tree.root,
        tuple(sorted(found, key=lambda one: one.path.as_posix())),
        (*notes, *_places(found, tree), *tree.notes, *picture_notes((s.name, s.reason) for s in ignored)),
        _by_name(skipped),
        ignored,
        next((offer.metadata for offer in offers if offer.metadata), None),
    )


def _reason(picture: Path, offers: Sequence[Offer], captioned: bool) -> str | None:
    """Why a picture is not trained on, or None."""
    if reason := _first(picture, [offer.aside for offer in offers]):
        return reason
    if unsupported(picture):
        return "this format is not supported; save it as PNG or JPEG"
    return None if captioned else _first(picture, [offer.unclaimed for offer in offers])


def _files_of(found: Sequence[Found]) -> list[Path]:
    """The pictures and their masks."""
    return [path for one in found for path in (one.path, one.mask) if path]


def _by_name(skipped: Sequence[Skipped]) -> tuple[Skipped, ...]:
    return tuple(sorted(skipped, key=lambda s: s.name))


def _first(picture: Path, offered: Sequence[Mapping[Path, T]]) -> T | None:
    return next((values[picture] for values in offered if picture in values), None)


def _places(found: Sequence[Found], tree: Tree) -> list[str]:
    """Says which subfolders the pictures are from."""
    folders = [one.path.parent for one in found if one.path.parent != tree.root and one.default is None]
    if not folders:
        return []
    names = list(dict.fromkeys(map(tree.name, folders)))
    return [f"{count(len(folders), 'picture')} from subfolders (data.nested): {listing(names)}"]


def _ignored(tree: Tree, offers: Sequence[Offer]) -> tuple[Skipped, ...]:
    """The files that nothing was made of."""
    used = {*tree.pictures, *(file for offer in offers for file in offer.used)}
    rest = [file for file in tree.files if file not in used]
    reasons = {file: ORPHAN if file.suffix.lower() in TEXTS else "not a picture, ignored" for file in rest}
    return _by_name([Skipped(file, reason, tree.name(file)) for file, reason in reasons.items()])
