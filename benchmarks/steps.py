"""Two revisions of the program side by side: `python -m benchmarks.steps REVISION [REVISION]`.

Trains with both in turn, each time in a new process, and prints seconds a step, peak memory and seconds to
the end of the first step, with the ratios to the first revision. Without a second revision the working tree
is compared, with all that is not committed. The same revision twice shows how much chance there is in the
figures. For example:

    python -m benchmarks.steps main --command 'lora --instance-dir datasets/mycat --set training.batch_size=4'
    python -m benchmarks.steps HEAD HEAD --more '--set training.packed_weights=false'
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks.machine import describe, revision
from benchmarks.measure import ROOT, add_arguments, in_turn, ours, summary
from benchmarks.table import compared

COMMAND = "lora --instance-dir datasets/mycat --model storybook --set preview.every=0"


@contextmanager
def checked_out(name: str) -> Iterator[Path]:
    """The files of a revision in a folder of their own.

    Args:
        name: As Git takes it.

    Raises:
        CalledProcessError: If Git knows no such revision; its `stderr` says why.
    """
    with tempfile.TemporaryDirectory(prefix="benchmark-") as place:
        tree = Path(place, "tree")
        _git("worktree", "add", "--detach", str(tree), name)
        try:
            yield tree
        finally:
            _git("worktree", "remove", "--force", str(tree))


def _git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)


@contextmanager
def trees(first: str, second: str | None) -> Iterator[dict[str, Path]]:
    """The folders of two revisions by name; the second is the working tree if it is None."""
    with checked_out(first) as one:
        if second is None:
            yield {first: one, f"working tree ({revision(ROOT)})": ROOT}
        else:
            with checked_out(second) as other:
                yield {first: one, second if second != first else f"{second} again": other}


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("revision", help="what to compare with: a commit, branch or tag")
    parser.add_argument("revision2", nargs="?", help="the other one (default: the working tree)")
    parser.add_argument("--command", default=COMMAND, help="what follows `finetune`; %(default)r if unset")
    parser.add_argument("--more", default="", help="added to the second one's command, such as a `--set`")
    add_arguments(parser, repeats=5)
    parser.add_argument("--json", type=Path, help="file for the figures")
    given = parser.parse_args()
    try:
        with trees(given.revision, given.revision2) as found, tempfile.TemporaryDirectory() as logs:
            added = dict(zip(found, ("", given.more), strict=True))
            programs = {
                f"{name} {added[name]}".strip(): ours(tree, *shlex.split(f"{given.command} {added[name]}"))
                for name, tree in found.items()
            }
            runs = in_turn(programs, given.steps, given.repeats, Path(logs), given.patience)
    except subprocess.CalledProcessError as error:
        parser.error(f"Git cannot check out a revision: {error.stderr.strip()}")
    figures = {name: summary(several) for name, several in runs.items()}
    about = {"command": f"finetune {given.command}", **describe()}
    print("", *(f"{key}: {value}" for key, value in about.items()), "", compared(figures), sep="\n")
    if given.json:
        every = {name: [asdict(one) for one in several] for name, several in runs.items()}
        given.json.write_text(json.dumps({**about, "runs": every}, indent=1), encoding="utf-8")
    return 1 if any(one.failure for one in figures.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
