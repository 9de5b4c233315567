"""Findings about files that are not trained on, sizes and numbers of pictures."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.doctor.finding import DataSet, Finding
from finetune.data.layouts import ORPHAN
from finetune.data.notes import by_reason, count

FEW = 4
MANY_REPEATS = 100
"""More than what kohya's guides advise for a single subject."""


def skipped(data: DataSet) -> Iterator[Finding]:
    """Files that are not trained on, those of one reason together."""
    for meant in (False, True):
        alike = by_reason((one.name, one.reason) for one in data.folder.skipped if one.meant == meant)
        for reason, files in alike.items():
            sentence = f"{count(len(files), 'file')} not trained on: {reason}"
            fix = "" if meant else "Replace or remove them."
            yield Finding("skipped", "note" if meant else "warning", sentence, files, fix)


def ignored(data: DataSet) -> Iterator[Finding]:
    """Files that are not pictures."""
    found = {one.name: "" for one in data.folder.ignored if one.reason != ORPHAN}
    if found:
        yield Finding("ignored", "note", f"{count(len(found), 'file')} ignored, not pictures", found)


def enlarged(data: DataSet) -> Iterator[Finding]:
    """Pictures that are smaller than they are trained at."""
    small = [(picture, at) for picture, at in data.framed if at.enlarged]
    if small:
        most = max(at.resized[0] / at.original[0] for _, at in small)
        files = {picture.name: f"{picture.width}x{picture.height}" for picture, _ in small}
        sentence = f"{count(len(files), 'picture')} smaller than trained at, enlarged up to {most:.1f} times"
        fix = "Use larger originals, or lower data.resolution: enlarged pictures teach blur."
        yield Finding("enlarged", "warning" if most > 1.25 else "note", sentence, files, fix)


def cropped(data: DataSet) -> Iterator[Finding]:
    """Pictures that lose some of their area."""
    much = {p.name: f"{at.lost:.0%}" for p, at in data.framed if at.lost > data.crop_warning}
    some = {p.name: at.lost for p, at in data.framed if at.lost > 0.02 and p.name not in much}
    if much:
        sentence = f"{count(len(much), 'picture')} cropped by more than {data.crop_warning:.0%}"
        fix = "Crop them by hand, so that the subject is inside, or allow longer shapes: data.bucket_ratio."
        yield Finding("cropped", "warning", sentence, much, fix)
    if some:
        sentence = f"{count(len(some), 'picture')} cropped by up to {max(some.values()):.0%}"
        yield Finding("cropped-little", "note", sentence)


def amounts(data: DataSet) -> Iterator[Finding]:
    """Too few pictures to learn a subject from, or repeats that hide how few there are."""
    pictures = data.folder.pictures
    if len(pictures) < FEW:
        sentence = f"only {count(len(pictures), 'picture')}: what they share is learned, wanted or not"
        fix = "Add pictures of other places, light and angles; 5 to 20 do for a subject."
        yield Finding("few", "warning", sentence, fix=fix)
    often = {p.name: f"{p.repeats} times" for p in pictures if p.repeats > MANY_REPEATS}
    if often:
        sentence = f"{count(len(often), 'picture')} repeated more than {MANY_REPEATS} times an epoch"
        fix = "Lower the repeats and train more steps: they balance folders, and add nothing new."
        yield Finding("repeats", "warning", sentence, often, fix)
