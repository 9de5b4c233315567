"""`python -m tests.mutants.types mypy …`: mypy's findings in mutated code, less what mutmut itself causes.

mutmut puts all mutants of a function side by side into one file. The codes of `BY_MUTMUT` come from that
alone, and so do opinions on `self.name = None`: mypy draws an attribute's type from all copies together.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

BY_MUTMUT = {"ignore-without-code", "unused-ignore", "no-redef", "has-type", "var-annotated"}
ATTRIBUTE_IS_NONE = re.compile(r"\s*self\.\w+(: .*)? = None$")


def main() -> int:
    """Prints the remaining findings as mypy does, a line of JSON each."""
    command = [sys.executable, "-m", *sys.argv[1:], "--output", "json"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    sys.stderr.write(found.stderr)
    sources: dict[str, list[str]] = {}
    for line in filter(None, found.stdout.splitlines()):
        finding = json.loads(line)
        file = finding["file"]
        if file not in sources:
            sources[file] = Path(file).read_text(encoding="utf-8").split("\n")
        own = ATTRIBUTE_IS_NONE.match(sources[file][finding["line"] - 1])
        if finding["code"] not in BY_MUTMUT and not own:
            print(line)
    return found.returncode


if __name__ == "__main__":
    sys.exit(main())
