"""`python -m tests.mutants`: mutation testing with mutmut; `make mutants` calls it.

Exit code 0 if nothing survives but what `known.txt` lists, else 1. A mutant that was caught stays so
until its function changes, so that a stopped run resumes, and a second one tries what survived.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import io
import os
import subprocess
import sys
import zlib
from pathlib import Path

from mutmut import __main__ as mutmut

from tests.mutants.known import Known
from tests.mutants.results import CAUGHT, PLACE, mutants, report


def main() -> int:
    """Generates mutants, tries those that are asked for, prints the result."""
    arguments = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    arguments.add_argument("names", nargs="*", default=["*"], help="such as 'finetune.data.*'; default: all")
    arguments.add_argument("--sample", type=int, default=1, help="try one of so many, always the same ones")
    arguments.add_argument("--workers", type=int, default=os.cpu_count(), help="processes at a time")
    arguments.add_argument("--report", action="store_true", help="only print what is known already")
    chosen = arguments.parse_args()
    known = Known()
    if not chosen.report:
        generate(chosen.workers)
        names = [
            mutant.name
            for mutant in mutants()
            if zlib.crc32(mutant.name.encode()) % chosen.sample == 0
            and any(fnmatch.fnmatch(mutant.name, name) for name in chosen.names)
            and mutant.status not in CAUGHT
            and not (mutant.status == "survived" and known.has(mutant.file.as_posix(), *mutant.change()))
        ]
        if names:
            binary = Path(sys.executable).with_name("mutmut")
            command = [str(binary), "run", "--max-children", str(chosen.workers), *names]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return 1 if report(known) else 0


def generate(workers: int) -> None:
    """Writes the mutants of files that changed, which mutmut else does together with running them."""
    PLACE.mkdir(exist_ok=True)
    mutmut.copy_src_dir()
    with contextlib.redirect_stdout(io.StringIO()):
        mutmut.create_mutants(workers)


if __name__ == "__main__":
    sys.exit(main())
