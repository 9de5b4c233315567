"""Looks at a data set before anything long: one table of what may be wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from finetune.data.doctor import captions, copies, quality, sizes
from finetune.data.doctor.finding import SEVERITIES, DataSet, Finding, Severity
from finetune.data.doctor.look import Look, look_at
from finetune.data.notes import EMPTY, duplicate_notes, picture_notes

__all__ = ["CHECKS", "DataSet", "Finding", "Look", "Severity", "examine", "look_at", "worst"]


@dataclass(frozen=True)
class Check:
    """One row of the table.

    Attributes:
        find: Yields what it finds.
        told: Whether training tells it too: it costs nothing, and the summary of a run has nothing of it.
    """

    find: Callable[[DataSet], Iterator[Finding]]
    told: bool = False


CHECKS = (
    Check(sizes.skipped),
    Check(quality.shifted),
    Check(captions.cut),
    Check(captions.untriggered, told=True),
    Check(captions.uncaptioned),
    Check(captions.empty),
    Check(captions.orphans),
    Check(captions.mirrored),
    Check(copies.copies),
    Check(copies.near_copies),
    Check(quality.uniform),
    Check(quality.blurred),
    Check(quality.compressed),
    Check(sizes.enlarged),
    Check(sizes.cropped),
    Check(sizes.amounts, told=True),
    Check(sizes.ignored),
    Check(captions.everywhere, told=True),
    Check(captions.tags),
)
"""In the order in which findings of the same severity are told."""


def examine(data: DataSet) -> list[Finding]:
    """Everything that is found in a data set, the worst first, and what scanning noted about it."""
    found = [finding for check in CHECKS for finding in check.find(data)]
    return _by_severity([*found, *_of_notes(data)])


def worst(data: DataSet, most: int = 3) -> list[Finding]:
    """The worst of what can be found without looking at the pictures."""
    found = [finding for check in CHECKS if check.told for finding in check.find(data)]
    return _by_severity(found)[:most]


def _by_severity(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))


def _of_notes(data: DataSet) -> Iterator[Finding]:
    """What scanning noted and no check finds."""
    folder = data.folder
    found = duplicate_notes({p.name: p.digest for p in folder.pictures})
    found += picture_notes((s.name, s.reason) for s in folder.ignored)
    for note in folder.notes:
        if note not in found and EMPTY not in note:
            yield Finding("folder", "note", note)
