"""Folders with a metadata file, as Hugging Face's imagefolder has them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from finetune.data.layouts.metadata import Metadata, metadata_in, read_metadata
from finetune.data.layouts.offer import Offer, too_long
from finetune.data.layouts.tree import Tree, above
from finetune.data.notes import listing


def huggingface(tree: Tree, lines: bool) -> Offer:
    """Captions and conditioning pictures from `metadata.jsonl`, `.csv` or `.parquet`.

    A metadata file speaks for its folder and those below it, up to the next metadata file.

    Raises:
        DataError: If a metadata file cannot be read.
    """
    offer = Offer("metadata")
    speaking: dict[Path, Metadata] = {}
    for folder in dict.fromkeys([tree.root, *(file.parent for file in tree.files)]):
        files = metadata_in(folder)
        if files:
            speaking[folder] = read_metadata(files[0])
            offer.source = files[0].name
            offer.used |= set(files)
        for other in files[1:]:
            offer.notes.append(f"{tree.name(other)} is not used, since {files[0].name} is there too")
    offer.metadata = speaking.get(tree.root)
    if speaking:
        known = {os.path.realpath(picture): picture for picture in tree.pictures}
        for metadata in speaking.values():
            _take(metadata, tree, known, offer)
        _set_aside(tree, speaking, offer)
    return offer


def _take(metadata: Metadata, tree: Tree, known: Mapping[str, Path], offer: Offer) -> None:
    """Adds the rows of one file to the offer."""
    gone: list[Path] = []
    twice: dict[Path, None] = {}
    rows: dict[Path, None] = {}
    for row in metadata.rows:
        picture = known.get(os.path.realpath(row.picture))
        if picture is None and os.path.isfile(row.picture):  # unlike pathlib's, with names too long
            picture = row.picture
            offer.named.append(picture)
        if picture is None:
            gone.append(row.picture)
            continue
        if picture in rows:
            twice[picture] = None
        rows[picture] = None
        if captions := (*offer.captions.get(picture, ()), *row.captions):
            offer.captions[picture] = captions
        if row.control is not None:
            offer.controls[picture] = known.get(os.path.realpath(row.control), row.control)
    for picture in rows:
        if reason := too_long(offer.captions.get(picture, ()), metadata.path.name):
            offer.aside[picture] = reason
    name = tree.name(metadata.path)
    found = {
        f"{name} names files that are not there": listing([tree.name(path) for path in gone]),
        f"named more than once in {name}, each caption is used": tree.names(list(twice)),
        f"not used in {name}": listing(metadata.unused),
    }
    offer.notes += [f"{what}: {names}" for what, names in found.items() if names]


def _set_aside(tree: Tree, speaking: Mapping[Path, Metadata], offer: Offer) -> None:
    """Decides about the pictures that no row names."""
    controls = set(offer.controls.values())
    named = {os.path.realpath(row.picture) for metadata in speaking.values() for row in metadata.rows}
    for picture in tree.pictures:
        if os.path.realpath(picture) in named:
            continue
        if picture in controls:
            offer.other_use[picture] = "it is a conditioning picture, for finetune controlnet"
        elif file := next((speaking[f].path for f in above(picture, tree.root) if f in speaking), None):
            offer.unclaimed[picture] = f"no line of {tree.name(file)} names it, and it has no caption file"
