"""What became of the mutants."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.stats import status_by_exit_code

from tests.mutants.known import Known

PLACE = Path("mutants")  # where mutmut keeps everything
CAUGHT = {
    "killed": "by tests",
    "timeout": "by tests",
    "segfault": "by tests",
    "caught by type check": "by types",
}


@dataclass(frozen=True)
class Mutant:
    """A change of one function."""

    name: str  # as mutmut calls it: finetune.diffusion.noise.x_name__mutmut_1
    file: Path
    status: str  # mutmut's word, "not checked" among them

    @property
    def package(self) -> str:
        return self.name.split(".")[1]

    def change(self) -> tuple[str, str]:
        """The lines that were removed and those that were added, without indents."""
        lines = get_diff_for_mutant(self.name, path=self.file).splitlines()[2:]

        def marked(sign: str) -> str:
            return " ".join(line[1:].strip() for line in lines if line.startswith(sign))

        return marked("-"), marked("+")


def mutants() -> Iterator[Mutant]:
    """All that were generated."""
    for record in sorted(PLACE.rglob("*.py.meta")):
        results = json.loads(record.read_text(encoding="utf-8"))["exit_code_by_key"]
        file = record.relative_to(PLACE).with_suffix("")
        for name, code in results.items():
            yield Mutant(name, file, status_by_exit_code[code])


def report(known: Known) -> int:
    """Prints the new survivors, then a line for each package; the number of new survivors."""
    counts: dict[str, Counter[str]] = {}
    new = 0
    for mutant in mutants():
        count = counts.setdefault(mutant.package, Counter())
        kind = CAUGHT.get(mutant.status, "open" if mutant.status == "not checked" else "new")
        was, now = mutant.change() if kind == "new" else ("", "")
        if kind == "new" and known.has(mutant.file.as_posix(), was, now):
            kind = "known"
        elif kind == "new":
            new += 1
            print(f"{mutant.name} ({mutant.status})\n    - {was}\n    + {now}")
        count[kind] += 1
    everything = sum(counts.values(), Counter[str]())
    for package, count in [*counts.items(), ("all", everything)]:
        print(f"{package:10} {_line(count)}")
    return new


def _line(count: Counter[str]) -> str:
    """The figures of a package in words."""
    caught = count["by tests"] + count["by types"]
    tried = count.total() - count["open"]
    text = (
        f"{count.total():5} mutants: {count['by tests']:5} caught by tests, {count['by types']:5} by types, "
        f"{count['new'] + count['known']:4} survived ({count['known']} known)"
    )
    if tried > count["known"]:
        text += f"; {caught / (tried - count['known']):6.1%} of those that can be caught, "
        text += f"{caught / tried:6.1%} of all"
    return text + (f"; {count['open']} not tried yet" if count["open"] else "")
