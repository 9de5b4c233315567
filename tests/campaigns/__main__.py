"""`python -m tests.campaigns`: runs campaigns and prints attempts and failures by kind.

Exit code 0 if no attack did harm, else 1.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from finetune.cli.terminal import quiet_libraries, quiet_loading
from tests.campaigns.campaign import Campaign, Verdict

# Module names; each has a class `Attacks`.
CAMPAIGNS: tuple[str, ...] = (
    "kills",
    "pairs",
    "folders",
    "surroundings",
    "recipes",
    "weights",
    "pictures",
    "heaps",
)


def campaign(name: str) -> type[Campaign]:
    """The campaign with this name."""
    attacks: type[Campaign] = importlib.import_module(f"tests.campaigns.{name}").Attacks
    return attacks


def run_campaign(kind: type[Campaign], numbers: range) -> int:
    """Runs these attacks of a campaign, prints the results and returns the number of failures."""
    began, tries, failures = time.monotonic(), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix=f"campaign-{kind.name}-") as place:
        attacks = kind(Path(place))
        for number in numbers:
            try:
                verdict = attacks.attack(number)
            except Exception as error:  # an attack that crashes is a failure; the others still run
                verdict = Verdict("the attack itself", f"{type(error).__name__}: {error}")
            tries[verdict.kind] += 1
            if verdict.failure:
                failures[verdict.kind] += 1
                print(f"{kind.name} {number} ({verdict.kind}): {verdict.failure}", flush=True)
    seconds = time.monotonic() - began
    print(f"\n{kind.name}: {tries.total()} attempts, {failures.total()} failures, {seconds:.0f} s")
    for sort, count in sorted(tries.items()):
        print(f"  {count:6} {sort}" + (f": {failures[sort]} failed" if failures[sort] else ""))
    sys.stdout.flush()
    return failures.total()


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaigns", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"any of {', '.join(CAMPAIGNS)} (default: all)"
    )
    parser.add_argument("--small", action="store_true", help="the few attacks of `make test`")
    parser.add_argument("--first", type=int, default=0, help="number of the first attack")
    parser.add_argument("--count", type=int, help="how many attacks (default: the campaign's own number)")
    parser.add_argument("--only", type=int, help="run only the attack with this number")
    given = parser.parse_args()
    quiet_libraries()
    quiet_loading()
    failures = 0
    for name in given.names or CAMPAIGNS:
        kind = campaign(name)
        count = given.count or (kind.small if given.small else kind.large)
        first, count = (given.first, count) if given.only is None else (given.only, 1)
        failures += run_campaign(kind, range(first, first + count))
    return 1 if failures else 0


if __name__ == "__main__":
    # One thread per process: the models are tiny, and only the forking thread survives a fork.
    os.environ["OMP_NUM_THREADS"] = "1"
    sys.exit(main())
