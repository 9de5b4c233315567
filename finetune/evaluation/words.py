"""What the figures mean, in plain words, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from finetune.evaluation.measure import Report

LEARNED, PARTLY = 0.9, 0.5
"""Mean likeness of the subject's pictures to the training pictures."""

WEAKER, IGNORED = 0.75, 0.4
"""Share of pictures that show their words, compared with the base model's."""

LEAKS, COPIES = 0.1, 0.1
"""Share of the class's pictures that show the subject; of the subject's that copy a training picture."""

DRIFTED, FAR = 0.1, 0.35
"""Change of predictions, as a share of the base model's loss."""


@dataclass(frozen=True)
class Finding:
    """One thing that the figures say.

    Attributes:
        what: In a few words.
        fix: What to do about it; empty if it is good.
    """

    what: str
    fix: str = ""


def findings(report: Report) -> list[Finding]:
    """What the figures say, the subject first, then what is wrong."""
    return [*_subject(report), *_prompts(report), *_forgotten(report), *_by_heart(report)]


def verdict(report: Report) -> str:
    """All findings as one line, such as "learned; weakens hat: use a weight of 0.8"."""
    found = findings(report)
    fixes = list(dict.fromkeys(one.fix for one in found if one.fix))
    said = "; ".join(one.what for one in found)
    return f"{said}: {'; '.join(fixes)}." if fixes else f"{said}."


def _subject(report: Report) -> Iterator[Finding]:
    likeness = float(report.likeness.mean())
    if likeness >= LEARNED:
        yield Finding("learned")
    elif likeness >= PARTLY:
        yield Finding("partly learned", "train longer or use a higher weight")
    else:
        yield Finding("not learned", "train longer or with a higher learning rate")


def _prompts(report: Report) -> Iterator[Finding]:
    for group, share in report.shown.items():
        chance = 1 / len(report.baseline.plan.contexts[group])
        usual = report.baseline.shown[group]
        if usual < (1 + chance) / 2:
            yield Finding(f"nothing can be said of {group}, which the base model itself does not follow")
        elif share < IGNORED * usual:
            yield Finding(f"ignores {group}", "use an earlier checkpoint or a weight of 0.6")
        elif share < WEAKER * usual:
            yield Finding(f"weakens {group}", "use an earlier checkpoint or a weight of 0.8")


def _forgotten(report: Report) -> Iterator[Finding]:
    plan = report.baseline.plan
    keep = "use an earlier checkpoint or a weight of 0.8, or name its prompt in data.preserve"
    if report.leak_share > LEAKS:
        yield Finding(f'"{plan.class_prompt}" shows the subject in {report.leak_share:.0%} of pictures', keep)
    for name, drift in ((f'"{plan.class_prompt}"', report.class_drift), ("unrelated", report.other_drift)):
        if drift.changed > FAR:
            yield Finding(f"{name} has drifted far", keep if name != "unrelated" else "train less")
        elif drift.changed > DRIFTED:
            yield Finding(f"{name} has drifted a little", keep if name != "unrelated" else "")


def _by_heart(report: Report) -> Iterator[Finding]:
    if report.copied_share > COPIES:
        less = "use an earlier checkpoint, or more pictures"
        yield Finding(f"copies training pictures in {report.copied_share:.0%} of pictures", less)
