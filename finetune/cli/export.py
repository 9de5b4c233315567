"""`finetune export`: other forms of a trained result."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Literal

import click

from finetune.cli.flags import SettingsCommand, given_model, model_flags, setting_flag
from finetune.cli.imports import large_imports
from finetune.cli.terminal import quiet_loading, tell, tell_end, tell_warning
from finetune.config import ModelSection
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
    ema: bool | None,
    model: str | None,
    vae: str | None,
    changes: tuple[str, ...],
) -> None:
    with large_imports():
        from finetune.backbones import load_stored
        from finetune.backbones.precision import PRECISIONS
        from finetune.export import Job, check_form, export, what_is
        from finetune.export.job import RANK, data_url
        from finetune.recipes.model import model_for
        from finetune.recipes.rewrite import find_saved, written_again

        quiet_loading()
    given = given_model(model, changes, vae)
    saved = find_saved(run, ema)
    check_form(form, saved.made if saved else what_is(run), output, weight, rank)
    check_writable(output.parent)
    picture = data_url(thumbnail) if thumbnail else None
    if saved:
        tell(saved.sentence)
    with written_again(saved, given, output.parent) if saved else nullcontext(what_is(run)) as made:
        wanted = given
        if saved:  # a whole model is complete: what was said of the one it was trained from is done
            wanted = ModelSection() if made.kind == "model" else saved.model(given)
        section, sentence = model_for(wanted, made.kind, made.path)
        if not saved:
            tell(sentence)
        backbone = load_stored(section)
        for note in backbone.notes:
            tell_warning(note)
        job = Job(made.path, backbone, output, PRECISIONS[dtype], weight, rank or RANK, picture)
        reads = export(form, made, job)
    tell_end(f"Wrote {output}. {reads}", [output])


_ROWS = "\n".join(f"  {name}: {form.summary}" for name, form in FORMS.items())

export_command = SettingsCommand(
    "export",
    callback=_export,
    help="Write what was trained in another form. RUN is a run folder, one of its checkpoints, or a file."
    f"\n\n\b\nForms:\n{_ROWS}",
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
        click.Option(
            ["--ema/--no-ema"],
            default=None,
            help="The averaged weights of the run's last checkpoint, or those without average; what the run "
            "itself exported, if neither is given.",
        ),
        *model_flags("the model that it was made for"),
        setting_flag("--vae", ModelSection.model_fields["vae"]),
    ],
    keys=MODEL_KEYS,
)
