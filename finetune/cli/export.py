"""`finetune export`: other forms of a trained result."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from finetune.cli.flags import SettingsCommand, given_model, model_flags
from finetune.cli.imports import large_imports
from finetune.cli.terminal import quiet_loading, tell
from finetune.config.forms import FORMS
from finetune.files import check_writable
from finetune.recipes.load import MODEL_KEYS


def _export(
    run: Path,
    form: str,
    output: Path,
    dtype: Literal["fp32", "fp16", "bf16"],
    weight: float,
    rank: int | None,
    thumbnail: Path | None,
    model: str | None,
    changes: tuple[str, ...],
) -> None:
    with large_imports():
        from finetune.backbones import load_backbone
        from finetune.backbones.precision import PRECISIONS
        from finetune.export import Job, check_form, export, what_is
        from finetune.export.job import RANK, data_url
        from finetune.recipes.model import model_for

        quiet_loading()
    given = given_model(model, changes)
    made = what_is(run)
    check_form(form, made, output, weight, rank)
    check_writable(output.parent)
    picture = data_url(thumbnail) if thumbnail else None
    section, sentence = model_for(given, made.kind, made.path)
    tell(sentence)
    backbone = load_backbone(section)
    for note in backbone.notes:
        tell(note)
    job = Job(made.path, backbone, output, PRECISIONS[dtype], weight, rank or RANK, picture)
    reads = export(form, made, job)
    tell(f"Wrote {output}. {reads}")


_ROWS = "\n".join(f"  {name}: {form.summary}" for name, form in FORMS.items())

export_command = SettingsCommand(
    "export",
    callback=_export,
    help=f"Write what was trained in another form. RUN is a run folder or a file.\n\n\b\nForms:\n{_ROWS}",
    params=[
        click.Argument(["run"], type=click.Path(path_type=Path), metavar="RUN"),
        click.Option(
            ["--to", "form"],
            type=click.Choice(list(FORMS)),
            required=True,
            metavar="FORM",
            help="One of the forms above.",
        ),
        click.Option(
            ["--output", "-o"],
            type=click.Path(path_type=Path),
            required=True,
            metavar="PATH",
            help="The new file or folder.",
        ),
        click.Option(
            ["--dtype"],
            type=click.Choice(["fp32", "fp16", "bf16"]),
            default="fp32",
            show_default=True,
            help="Precision of the written weights.",
        ),
        click.Option(
            ["--weight"], type=float, default=1.0, show_default=True, help="Weight of the LoRA: 1 as trained."
        ),
        click.Option(
            ["--rank"],
            type=click.IntRange(min=1),
            help="Rank of the plain LoRA made from a DoRA; 64 if not given.",
        ),
        click.Option(
            ["--thumbnail"],
            type=click.Path(path_type=Path),
            metavar="PICTURE",
            help="A picture for lists of models, kept in the file's metadata.",
        ),
        *model_flags("the model that it was made for"),
    ],
    keys=MODEL_KEYS,
)
