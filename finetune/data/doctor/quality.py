"""Findings about what pictures look like."""

from __future__ import annotations

from collections.abc import Iterator

from finetune.data.doctor.finding import DataSet, Finding
from finetune.data.notes import count

BLURRED = 0.02
"""Sharpness below which a picture is called blurred.

Ten photographs and five drawings have 0.2 or more; the photographs at 512 pixels, blurred with a radius of 2
of them, at most 0.01."""

UNIFORM = 4.0
"""Contrast, in levels of 255, below which a picture shows nothing; photographs have 30 and more."""

COARSE = 50
"""JPEG quality below which blocks are seen."""


def blurred(data: DataSet) -> Iterator[Finding]:
    """Pictures that are sharp nowhere."""
    seen = [(p, look) for p, look in data.seen() if look.contrast >= UNIFORM]
    found = {p.name: "" for p, look in seen if look.sharpness < BLURRED}
    if found:
        sentence = f"{count(len(found), 'picture')} blurred, even where sharpest"
        yield Finding("blurred", "warning", sentence, found, "Replace them, unless blur is to be learned.")


def uniform(data: DataSet) -> Iterator[Finding]:
    """Pictures that show nothing."""
    found = {p.name: "" for p, look in data.seen() if look.contrast < UNIFORM}
    if found:
        sentence = f"{count(len(found), 'picture')} of nearly one color"
        yield Finding("uniform", "warning", sentence, found, "Remove them, unless they are meant.")


def compressed(data: DataSet) -> Iterator[Finding]:
    """JPEG files of low quality."""
    qualities = {p.name: look.quality for p, look in data.seen() if look.quality is not None}
    found = {name: f"quality {quality}" for name, quality in qualities.items() if quality < COARSE}
    if found:
        sentence = f"{count(len(found), 'JPEG file')} so compressed that blocks show"
        yield Finding("compressed", "warning", sentence, found, "Use the originals.")


def shifted(data: DataSet) -> Iterator[Finding]:
    """Control pictures that do not lie where their pictures do."""
    shifts = {p.name: look.shift for p, look in data.seen()}
    found = {
        name: f"{right:+.0%} to the right, {down:+.0%} down"
        for name, (down, right) in shifts.items()
        if down or right
    }
    if found:
        sentence = f"{count(len(found), 'control picture')} displaced against the picture"
        fix = "Make each control picture from its picture, without cropping or moving it."
        yield Finding("shifted", "warning", sentence, found, fix)
