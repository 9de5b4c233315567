"""What kohya's trainers take: `10_sks cat` folders with `img/` and `reg/`, and captions in one JSON file.

The folders: https://github.com/kohya-ss/sd-scripts/blob/main/docs/train_README-en.md
The JSON files: https://github.com/kohya-ss/sd-scripts/blob/main/docs/fine_tune.md
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from finetune.data.decode import SUFFIXES
from finetune.data.layouts.offer import Offer, clean, split, too_long
from finetune.data.layouts.tree import Tree, above
from finetune.data.notes import holds_pictures, listing
from finetune.files import shown

# Four digits are a year, and a leading zero is a number in a list.
_REPEATED = re.compile(r"(0|[1-9]\d{0,2})_(.+)", re.DOTALL)
_LARGEST_JSON = 2**28
# How a file of kohya's form begins: the first picture's entry.
_FIRST = re.compile(
    rb'(?:\xef\xbb\xbf)?\s*\{\s*"(?:[^"\\]|\\.)*"\s*:\s*\{[^{}]*"(?:caption|tags)"\s*:', re.DOTALL
)
_REG = "reg"
# From the last step of kohya's preparation to the first: later files hold what earlier ones do.
_STEPS = ("meta_lat.json", "meta_clean.json", "meta_cap_dd.json", "meta_cap.json")


def class_tokens(name: str) -> tuple[int, str] | None:
    """Repeats and caption in a folder's name: (10, "sks cat") for "10_sks cat"; None for any other name."""
    match = _REPEATED.fullmatch(name)
    return (int(match[1]), clean(match[2])) if match else None


def kohya_folders(tree: Tree, lines: bool) -> Offer:
    """Repeats and default captions from folders named `N_tokens`, the folder itself included."""
    offer = Offer()
    homes = {picture.parent: list(above(picture, tree.root)) for picture in tree.pictures}
    inside = {folder for folders in homes.values() for folder in folders}
    speaking = {folder: said for folder in inside if (said := class_tokens(folder.resolve().name))}
    parents = {folder.parent for folder in speaking}
    image, reg = tree.root / "img", tree.root / _REG
    used: set[Path] = set()
    for picture in tree.pictures:
        folders = homes[picture.parent]
        folder = next((f for f in folders if f in speaking), None)
        if reg in folders and (image in parents or tree.root in parents):
            offer.other_use[picture] = "it is one of kohya's regularization pictures"
        elif image in parents and image not in folders:
            offer.aside[picture] = "it is beside img, the folder that kohya's tools train on"
        elif folder is not None and speaking[folder][0] == 0:
            offer.aside[picture] = f"its folder {tree.name(folder)} has no repeats"
        elif folder is not None:
            offer.folders[picture] = speaking[folder]
            used.add(folder)
    told = [
        f'{shown(folder.resolve().name)} ({speaking[folder][0]} times an epoch, "{speaking[folder][1]}")'
        for folder in sorted(used)
    ]
    if told:
        offer.notes.append(
            f"folders of kohya's, with repeats and the caption if there is none: {listing(told)}"
        )
    offer.notes += _regularization(tree)
    return offer


def _regularization(tree: Tree) -> list[str]:
    """How to use the pictures in `reg`, below the root or beside it, if no setting does."""
    here = tree.root.resolve()
    places = [here / _REG]
    if here.name == "img" or class_tokens(here.name):
        places.append(here.parent / _REG)
    if class_tokens(here.name) and here.parent.name == "img":
        places.append(here.parent.parent / _REG)
    for place in places:
        try:
            folders = [f for f in sorted(place.iterdir()) if class_tokens(f.name) and holds_pictures(f)]
        except OSError:
            continue
        if folders and os.path.realpath(place) not in tree.elsewhere:
            entry = f"[{{dir: {json.dumps(shown(str(place)))}, class_pictures: true}}]"
            return [
                f"regularization pictures in {shown(str(place))} are not used; for prior preservation add "
                f"--set data.sources={shlex.quote(entry)}"
            ]
    return []


def kohya_json(tree: Tree, lines: bool) -> Offer:
    """Captions and tags from `meta_cap.json` and other files of that form, here or one level up."""
    offer = Offer()
    stems = {picture.name for picture in tree.pictures} | {picture.stem for picture in tree.pictures}
    # JSON beside a picture, with its name, is what downloaders write.
    files = [f for f in tree.files if f.suffix.lower() == ".json" and f.stem not in stems]
    try:
        beside = sorted(tree.root.resolve().parent.glob("*.json"))
        up = [f for f in beside if os.path.isfile(f) and (f.name in _STEPS or _begins(f))]
    except OSError:
        up = []
    order = {name: i for i, name in enumerate(_STEPS)}
    ordered = sorted([*files, *up], key=lambda f: (f not in files, order.get(f.name, len(order))))
    for file in ordered:
        content = _read(file)
        if content is None:
            continue
        matched = _matched(content, file, tree)
        if not matched and file not in files:
            continue
        _take(content, matched, file, tree, lines, offer)
    return offer


def _begins(file: Path) -> bool:
    """Whether a file begins as kohya's do: others, such as annotations of a data set, can be large."""
    try:
        with file.open("rb") as opened:
            return bool(_FIRST.match(opened.read(2**16)))
    except OSError:
        return False


def _read(file: Path) -> Mapping[str, Mapping[str, Any]] | None:
    """The content of a file of kohya's form; None if it is of another."""
    try:
        content = json.loads(file.read_bytes()) if file.stat().st_size <= _LARGEST_JSON else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        return None
    return content if any({"caption", "tags"} & entry.keys() for entry in content.values()) else None


def _matched(content: Mapping[str, Any], file: Path, tree: Tree) -> dict[str, list[Path]]:
    """For each key its pictures: by path, else by name; the path may be of another machine."""
    by_name: dict[str, list[Path]] = {}
    for picture in tree.pictures:
        for name in dict.fromkeys((picture.name, picture.stem)):
            by_name.setdefault(name, []).append(picture)
    found: dict[str, list[Path]] = {}
    for key in content:
        path = PurePosixPath(key.replace("\\", "/"))
        candidates = by_name.get(path.name, [])
        if not candidates and path.suffix.lower() in SUFFIXES:
            candidates = by_name.get(path.stem, [])
        for length in range(2, len(path.parts) + 1):  # the longest end of the path that one picture has
            if len(candidates) < 2:
                break
            end = (
                path.with_suffix("").parts[-length:]
                if path.suffix.lower() in SUFFIXES
                else path.parts[-length:]
            )
            longer = [c for c in candidates if c.with_suffix("").parts[-length:] == end]
            candidates = longer or candidates
        if candidates:
            found[key] = candidates
    return found


def _take(
    content: Mapping[str, Mapping[str, Any]],
    matched: Mapping[str, list[Path]],
    file: Path,
    tree: Tree,
    lines: bool,
    offer: Offer,
) -> None:
    name = tree.name(file) if file.is_relative_to(tree.root) else f"../{shown(file.name)}"
    offer.used.add(file)
    if offer.source:
        offer.notes.append(f"{name} is not used, since {offer.source} has the captions")
        return
    offer.source = name
    unclear = [key for key, pictures in matched.items() if len({p.stem for p in pictures}) < len(pictures)]
    for key, pictures in matched.items():
        text = _caption(content[key])
        if key in unclear or text is None:
            continue
        captions = split(text, lines)
        offer.captions |= dict.fromkeys(pictures, captions)
        if reason := too_long(captions, name):
            offer.aside |= dict.fromkeys(pictures, reason)
    gone = [shown(key) for key in content if key not in matched]
    others = dict.fromkeys(
        key for entry in content.values() for key in entry if key not in ("caption", "tags")
    )
    told = {
        f"{name} names pictures that are not there": listing(gone),
        f"{name} names several pictures at once, which get no caption from it": listing(unclear),
        f"not used in {name}": listing([shown(str(key)) for key in others]),
    }
    offer.notes += [f"{what}: {names}" for what, names in told.items() if names]


def _caption(entry: Mapping[str, Any]) -> str | None:
    """Caption, then tags, as kohya's trainers join them; None if there is neither."""
    caption, tags = entry.get("caption"), entry.get("tags")
    if isinstance(tags, list):
        tags = ", ".join(str(tag) for tag in tags)
    parts = [part for part in (caption, tags) if isinstance(part, str)]
    return ", ".join(part for part in parts if part.strip()) if parts else None
