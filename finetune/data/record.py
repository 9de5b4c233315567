"""`pictures.jsonl`: what a run is trained on, and what has changed since."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from finetune.data.layouts import Skipped
from finetune.data.origin import Origin
from finetune.files import whole_file

Entry = Mapping[str, str]
"""One picture: its `file`, the `sha256` of its bytes, its `caption` (one a line if it has several); where
there are any, the SHA-256 of its `mask` or `control` picture and the `background` under transparent parts;
`class` for a picture of the class."""


def write_record(path: Path, entries: Sequence[Entry]) -> None:
    """Writes one JSON line per picture."""
    with whole_file(path) as aside:
        lines = [json.dumps(dict(entry), ensure_ascii=False) + "\n" for entry in entries]
        aside.write_text("".join(lines), encoding="utf-8")


def write_skipped(path: Path, skipped: Sequence[Skipped[Origin]]) -> None:
    """Writes one line per file that is not trained on: its name, a tab, the reason."""
    with whole_file(path) as aside:
        aside.write_text("".join(f"{s.name}\t{s.reason}\n" for s in skipped), encoding="utf-8")


def read_record(path: Path) -> list[Entry] | None:
    """Reads what `write_record` wrote; None if it is not there or damaged."""
    try:
        entries = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return entries if all(isinstance(entry["file"], str) for entry in entries) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None


def differences(before: Sequence[Entry], now: Sequence[Entry]) -> list[str]:
    """What has changed, in words: "the caption of 3.png", "4.png is gone"."""
    old, new = ({entry["file"]: entry for entry in entries} for entries in (before, now))
    found: list[str] = []
    for file in sorted({*old, *new}):
        if file not in new:
            found.append(f"{file} is gone")
        elif file not in old:
            found.append(f"{file} is new")
        else:
            keys = sorted(k for k in {*old[file], *new[file]} if old[file].get(k) != new[file].get(k))
            found += [f"the {'picture' if key == 'sha256' else key} of {file}" for key in keys]
    return found
