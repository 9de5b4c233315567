"""This program and others, on one machine: `python -m benchmarks.peers PLACE`.

Runs the recipes, diffusers' example scripts and kohya's sd-scripts in turn, with equal settings, on Stable
Diffusion 1.5 with random weights. Prints seconds a step, peak memory and seconds to the end of the first
step, with the ratios to this program's, and writes them below PLACE/results. `--setup` makes what is needed
in PLACE, about 10 GB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import describe, libraries, revision
from benchmarks.measure import ROOT, Run, add_arguments, at_least, in_turn, summary
from benchmarks.peers.cases import CASES, PRECISION
from benchmarks.peers.place import Place
from benchmarks.peers.setup import REPOSITORIES, set_up
from benchmarks.table import compared


def about(place: Place) -> dict[str, str]:
    """The machine and what ran on it."""
    told = {**describe(), "precision": PRECISION, "finetune": revision(ROOT)}
    for peer in REPOSITORIES:
        marker, python = place.code(peer) / "REVISION", place.python(peer)
        own = marker.read_text(encoding="utf-8").strip() if marker.exists() else "revision unknown"
        told[peer] = f"{own}, {libraries(python)}" if python.exists() else "not set up"
    return told


def page(told: dict[str, str], results: dict[str, dict[str, list[Run]]]) -> str:
    """All results as Markdown."""
    parts = ["\n".join(f"- {key}: {value}" for key, value in told.items())]
    for case, runs in results.items():
        parts.append(f"**{case}**\n\n{compared({name: summary(several) for name, several in runs.items()})}")
    return "\n\n".join(parts) + "\n"


def measured(place: Place, given: argparse.Namespace) -> bool:
    """Measures the chosen cases and writes the results after each; False if a program failed."""
    told = {**about(place), "batch": str(given.batch_size)}
    results = dict[str, dict[str, list[Run]]]()
    name = time.strftime("peers-%Y-%m-%d-%H%M%S")
    for case in given.only:
        programs, size = CASES[case]
        print(f"\n{case}", flush=True)
        logs = place.results / name / case
        results[case] = in_turn(
            programs(place, size, given.batch_size), given.steps, given.repeats, logs, given.patience
        )
        figures = {
            case: {who: [asdict(one) for one in several] for who, several in runs.items()}
            for case, runs in results.items()
        }
        text = json.dumps({**told, "cases": figures}, indent=1)
        (place.results / f"{name}.json").write_text(text, encoding="utf-8")
        (place.results / f"{name}.md").write_text(page(told, results), encoding="utf-8")
    print(f"\n{page(told, results)}")
    print(f"This, the figures and the programs' output are in {place.results} under the name {name}.")
    return not any(one.failure for runs in results.values() for several in runs.values() for one in several)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("place", type=Path, metavar="PLACE", help="folder of all that the peers need")
    parser.add_argument("--setup", action="store_true", help="make what is missing in PLACE, and end")
    for peer, address in REPOSITORIES.items():
        words = f"Git folder or address of its code (default: {address})"
        parser.add_argument(f"--{peer}", default=address, metavar="DIR", help=words)
    parser.add_argument("--only", nargs="+", default=list(CASES), choices=CASES)
    words = "rows of each step; must divide the number of pictures (default: %(default)s)"
    parser.add_argument("--batch-size", type=at_least(1), default=1, metavar="N", help=words)
    add_arguments(parser, repeats=3)
    given = parser.parse_args()
    place = Place(given.place.resolve())
    if not given.setup and not place.model.exists():
        parser.error(f"There is no model in {place.root}. Make what is needed with --setup.")
    count = len(list(place.pictures.glob("*"))) if not given.setup else 0
    if count % given.batch_size:  # the others' last batch of an epoch would be smaller
        parser.error(f"{count} pictures do not fill steps of {given.batch_size}. --setup draws 16; remove "
                     f"{place.pictures.parent} before it.")  # fmt: skip
    if not given.setup:
        return 0 if measured(place, given) else 1
    try:
        set_up(place, {peer: getattr(given, peer) for peer in REPOSITORIES})
    except subprocess.CalledProcessError as error:
        parser.error(f"The set-up stopped. {error} What is complete is kept; run it again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
