"""Findings about pictures that are the same, or nearly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from finetune.data.doctor.finding import DataSet, Finding
from finetune.data.doctor.quality import UNIFORM
from finetune.data.notes import count

NEAR = 10
"""Bits in which the hashes of nearly equal pictures differ at most, of 63.

Measured on ten photographs of two animals and five drawings: resized, recompressed, brightened or blurred
ones differ from the original in 6 bits at most, those with 2 % cropped from each side in 10;
different pictures of the same animal in 16 or more, mirror images in 28 or more.
"""

_ROWS = 1024  # compared with all others at a time


def copies(data: DataSet) -> Iterator[Finding]:
    """Files with the same bytes."""
    first: dict[str, str] = {}
    names = {p.name: first.setdefault(p.digest, p.name) for p in data.folder.pictures}
    found = {name: f"as {other}" for name, other in names.items() if other != name}
    if found:
        sentence = f"{count(len(found), 'file')} the same as another"
        fix = "Remove them; to show a picture more often, use repeats."
        yield Finding("copies", "warning", sentence, found, fix)


def near_copies(data: DataSet) -> Iterator[Finding]:
    """Pictures that look like another, or like its mirror image."""
    distinct = {
        p.digest: (p.name, look) for p, look in reversed(list(data.seen())) if look.contrast >= UNIFORM
    }
    firsts = list(distinct.values())[::-1]
    names, hashes = [name for name, _ in firsts], [look.hash for _, look in firsts]
    near = nearest_before(hashes, hashes)
    mirrored = nearest_before(hashes, [look.mirrored for _, look in firsts])
    mirrored = {picture: other for picture, other in mirrored.items() if picture not in near}
    if near:
        sentence = f"{count(len(near), 'picture')} nearly the same as another"
        fix = "Keep the best of each: what is shown more often is learned more."
        yield Finding("near-copies", "warning", sentence, _named(near, names), fix)
    if mirrored:
        sentence = f"{count(len(mirrored), 'picture')} nearly the mirror image of another"
        fix = "Keep one of each, and set data.flip=true if left and right do not matter."
        yield Finding("mirrored", "warning", sentence, _named(mirrored, names), fix)


def _named(found: Mapping[int, int], names: Sequence[str]) -> dict[str, str]:
    return {names[picture]: f"as {names[other]}" for picture, other in found.items()}


def nearest_before(hashes: Sequence[int], others: Sequence[int]) -> dict[int, int]:
    """For each picture that is nearly equal to an earlier one, the nearest of these.

    Args:
        hashes: Of each picture.
        others: What they are compared with: the same hashes, or those of the mirror images.
    """
    left, right = np.array(hashes, dtype=np.uint64), np.array(others, dtype=np.uint64)
    found: dict[int, int] = {}
    for start in range(0, len(left), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(left)))
        columns = np.arange(rows[-1] + 1)
        distance = np.bitwise_count(left[rows, None] ^ right[None, columns])
        distance[columns[None] >= rows[:, None]] = 64
        for row in np.flatnonzero(distance.min(axis=1) <= NEAR):
            found[start + int(row)] = int(distance[row].argmin())
    return found
