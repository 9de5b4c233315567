"""What a hook makes of a step: numbers to show, a checkpoint to keep, a reason to stop."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Verdict:
    """What a hook says of a step.

    Attributes:
        values: Numbers for trackers, by name.
        keep: Whether a checkpoint of this step must be on disk.
        stop: Whether training should end here.
    """

    values: Mapping[str, float] = field(default_factory=dict)
    keep: bool = False
    stop: bool = False


def together(verdicts: Iterable[Verdict | None]) -> Verdict:
    """What several hooks say of the same step, as one."""
    said = [verdict for verdict in verdicts if isinstance(verdict, Verdict)]
    values = {name: value for verdict in said for name, value in verdict.values.items()}
    return Verdict(values, any(verdict.keep for verdict in said), any(verdict.stop for verdict in said))
