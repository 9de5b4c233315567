"""`finetune report`: a run on one page, or several side by side."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.imports import large_imports
from finetune.cli.terminal import size, tell
from finetune.files import check_writable


def _report(runs: tuple[Path, ...], output: Path | None) -> None:
    with large_imports():
        from finetune.watching.page import write_report
    if output is not None:
        check_writable(output.absolute().parent)
    written = write_report(list(runs), output)
    tell(f"Wrote {written} ({size(written.stat().st_size)}).")


report_command = click.Command(
    "report",
    callback=_report,
    help="Write a run as one HTML file that needs no other: settings, pictures, curves, previews, results, "
    "how to use them. Without -o it is report.html in the run folder, which every run writes at its end. "
    "Several runs are compared.",
    short_help="Write a run, or several compared, as one page.",
    params=[
        click.Argument(["runs"], type=click.Path(path_type=Path), metavar="RUN...", nargs=-1, required=True),
        click.Option(
            ["-o", "--output"], type=click.Path(path_type=Path), metavar="FILE", help="Where the page goes."
        ),
    ],
)
