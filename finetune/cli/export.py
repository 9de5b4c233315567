"""`finetune export`: other forms of a trained result."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from finetune.cli.flags import SettingsCommand, setting_flag
from finetune.cli.terminal import quiet_loading, tell
from finetune.config import ModelSection
from finetune.files import check_writable


def _export(run: Path, merged: Path, model: str | None, dtype: Literal["fp32", "fp16"]) -> None:
    from finetune.backbones import load_backbone
    from finetune.export import export_merged
    from finetune.export.merge import check_free
    from finetune.recipes.model import choose_model

    quiet_loading()
    check_free(merged)
    check_writable(merged.parent)
    section, sentence = choose_model(model, [run])
    tell(sentence)
    export_merged(run, load_backbone(section), merged, dtype=dtype)
    tell(f"Wrote the model with the LoRA merged in to {merged}.")
    tell(f"Use it with --model {merged}, or DiffusionPipeline.from_pretrained({str(merged)!r}).")


export_command = SettingsCommand(
    "export",
    callback=_export,
    help="Write a trained LoRA in another form. RUN is a run folder or a LoRA file.",
    params=[
        click.Argument(["run"], type=click.Path(path_type=Path), metavar="RUN"),
        click.Option(
            ["--merged"],
            type=click.Path(path_type=Path),
            required=True,
            metavar="FOLDER",
            help="Write the whole pipeline with the LoRA merged in to this new folder.",
        ),
        setting_flag(
            "--model", ModelSection.model_fields["name"], default="the model that the LoRA was made for"
        ),
        click.Option(
            ["--dtype"],
            type=click.Choice(["fp32", "fp16"]),
            default="fp32",
            show_default=True,
            help="Precision of the written weights.",
        ),
    ],
)
