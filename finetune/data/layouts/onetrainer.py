"""OneTrainer's masks and conditioning pictures, and its files of concepts.

The files: https://github.com/Nerogar/OneTrainer/wiki/Concepts
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune.data.layouts.beside import read_text
from finetune.data.layouts.offer import Found, Listing, Offer, Skipped, clean, split
from finetune.data.layouts.tree import Tree, relative_name
from finetune.data.notes import listing
from finetune.errors import DataError
from finetune.files import shown

CONCEPTS = "concepts.json"
_MASK, _CONTROL = "-masklabel", "-condlabel"
# Augmentation has settings of its own here, and drawn tags are not a matter of the folder.
_IGNORED_PARTS = {"image": "enable_", "text": "_enable"}


def onetrainer(tree: Tree, lines: bool) -> Offer:
    """`NAME-masklabel.png` and `NAME-condlabel.png` are mask and conditioning picture of `NAME`."""
    offer = Offer()
    for kind, ending, found in (
        ("mask", _MASK, offer.masks),
        ("conditioning picture", _CONTROL, offer.controls),
    ):
        for (folder, stem), files in tree.by_stem.items():
            if not stem.endswith(ending):
                continue
            pictures = tree.by_stem.get((folder, stem.removesuffix(ending)), [])
            found |= dict.fromkeys(pictures, files[0])
            reason = f"it is a {kind} of OneTrainer's" + ("" if pictures else " without a picture")
            (offer.other_use if pictures else offer.aside).update(dict.fromkeys(files, reason))
    return offer


@dataclass(frozen=True)
class Concept:
    """One of OneTrainer's concepts: a folder, and how it is used.

    Attributes:
        path: The folder.
        nested: Whether its subfolders are searched.
        repeats: How often an epoch shows each picture.
        source: Where captions come from: "sample", "concept" or "filename".
        prompts: The file of captions if it is "concept".
        notes: What is not used of it.
    """

    path: Path
    nested: bool
    repeats: int
    source: str
    prompts: Path
    notes: tuple[str, ...]


def read_concepts(file: Path) -> list[Concept] | None:
    """The concepts in a file of OneTrainer's that are enabled for training; None if it is not one."""
    try:
        content = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, list) or not content:
        return None
    if not all(isinstance(c, dict) and isinstance(c.get("path"), str) and _known(c) for c in content):
        return None
    concepts = [
        _concept(c, file) for c in content if c.get("enabled", True) and not c.get("validation_concept")
    ]
    left_out = len(content) - len(concepts)
    if left_out and concepts:
        note = f"{left_out} of {len(content)} concepts are disabled or for validation, and left out"
        concepts[0] = replace(concepts[0], notes=(note, *concepts[0].notes))
    return concepts


def _known(content: Mapping[str, Any]) -> bool:
    return bool(content.keys() & {"text", "image", "balancing", "repeats", "include_subdirectories"})


def _concept(content: Mapping[str, Any], file: Path) -> Concept:
    text = content.get("text") if isinstance(content.get("text"), dict) else {}
    assert isinstance(text, dict)
    name = shown(str(content.get("name") or Path(content["path"]).name))
    notes: list[str] = []
    # Older files call it repeats.
    balancing = content.get("balancing", content.get("repeats", 1))
    number = balancing if isinstance(balancing, (int, float)) and balancing == balancing else 1
    repeats = max(1, round(min(number, 10_000)))
    if content.get("balancing_strategy", "REPEATS") != "REPEATS":
        notes.append(f"{name}: a number of samples is not understood, each picture counts once")
        repeats = 1
    elif repeats != balancing:
        notes.append(f"{name}: {balancing} repeats became {repeats}")
    if content.get("loss_weight", 1) != 1:
        notes.append(f"{name}: its loss weight of {content['loss_weight']} is not used")
    source = text.get("prompt_source", "sample")
    if source not in ("sample", "concept", "filename"):
        notes.append(
            f"{name}: the prompt source {shown(str(source))} is not understood, caption files are read"
        )
        source = "sample"
    on = [
        key
        for part, mark in _IGNORED_PARTS.items()
        if isinstance(settings := content.get(part), dict)
        for key, value in settings.items()
        if mark in key and value is True
    ]
    if text.get("enable_tag_shuffling") is True:
        on.append("enable_tag_shuffling")
    if on:
        notes.append(f"{name}: not used of OneTrainer's settings: {listing(on)}")
    return Concept(
        _place(file, content["path"]),
        content.get("include_subdirectories") is True,
        repeats,
        source,
        _place(file, str(text.get("prompt_path") or "")),
        tuple(notes),
    )


def _place(file: Path, name: str) -> Path:
    """A path in a file of concepts, from its folder, the one above (where OneTrainer runs) or the current."""
    given = Path(name.replace("\0", "").encode(errors="replace").decode())
    places = [file.parent / given, file.parent.parent / given, given]
    return next((place for place in places if os.path.exists(place)), places[0])


def list_concepts(file: Path, concepts: list[Concept], list_one: Callable[[Path, bool], Listing]) -> Listing:
    """What the concepts of a file offer together.

    Args:
        file: The file, which names are relative to the folder of.
        concepts: From `read_concepts`.
        list_one: Lists a folder, nested or not, each line of a caption file a caption.

    Raises:
        DataError: If there are none, or a folder or a file of prompts is not there or cannot be read.
    """
    if not concepts:
        raise DataError(
            "No concept in this file is enabled for training.",
            where=str(file),
            fix="Enable one in OneTrainer.",
        )
    root = file.parent
    found: dict[str, Found] = {}
    notes: list[str] = []
    skipped: dict[Path, Skipped] = {}
    ignored: dict[Path, Skipped] = {}
    for concept in concepts:
        if not os.path.isdir(concept.path):
            raise DataError(
                f"A concept's folder is not there: {shown(str(concept.path))}.",
                where=str(file),
                fix="Correct its path, or disable the concept.",
            )
        one = list_one(concept.path, concept.nested)
        default = f"a photo of {concept.path.resolve().name}"
        prompts = _prompts(concept, file)
        notes += [*concept.notes, *one.notes]
        for chosen, theirs in ((skipped, one.skipped), (ignored, one.ignored)):
            chosen |= {s.path: replace(s, name=relative_name(s.path, root)) for s in theirs}
        for picture in one.found:
            real = os.path.realpath(picture.path)
            if real in found:
                name = relative_name(picture.path, root)
                notes.append(f"{name} is in two concepts, the first counts")
                continue
            captions = picture.captions if concept.source == "sample" else prompts
            if concept.source == "filename":
                captions = (clean(picture.path.stem),)
            found[real] = replace(
                picture,
                captions=captions,
                default=picture.default or default,
                repeats=concept.repeats * picture.repeats,
            )
        if concept.source == "sample" and any(not f.captions and f.default is None for f in one.found):
            notes.append(f'pictures of {relative_name(concept.path, root)} without a caption get "{default}"')
    return Listing(
        root, tuple(found.values()), tuple(notes), tuple(skipped.values()), tuple(ignored.values())
    )


def _prompts(concept: Concept, file: Path) -> tuple[str, ...]:
    if concept.source != "concept":
        return ()
    try:
        return split(read_text(concept.prompts), lines=True)
    except ValueError as reason:
        raise DataError(
            f"A concept's file of prompts {reason}.",
            where=str(concept.prompts),
            fix=f"Correct it in {file.name}.",
        ) from None
