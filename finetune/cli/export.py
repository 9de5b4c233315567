"""`finetune export`: other forms of a trained result."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from finetune.cli.flags import SettingsCommand, given_model, model_flags
from finetune.cli.imports import large_imports
from finetune.cli.terminal import quiet_loading, tell
from finetune.files import check_writable
from finetune.recipes.load import MODEL_KEYS


def _export(
    run: Path,
    merged: Path | None,
    as_lora: Path | None,
    rank: int | None,
    model: str | None,
    changes: tuple[str, ...],
    dtype: Literal["fp32", "fp16"],
) -> None:
    with large_imports():
        from finetune.backbones import load_backbone
        from finetune.export import export_merged, export_plain
        from finetune.export.merge import check_free
        from finetune.export.plain import RANK
        from finetune.recipes.model import choose_model

        quiet_loading()
    out = merged or as_lora
    if out is None or (merged and as_lora):
        raise click.UsageError("Give either --merged FOLDER or --as-lora FILE.")
    if as_lora is None and rank is not None:
        raise click.UsageError("--rank requires --as-lora.")
    if as_lora is not None and dtype != "fp32":
        raise click.UsageError("--dtype requires --merged.")
    given = given_model(model, changes)
    check_free(out)
    check_writable(out.parent)
    section, sentence = choose_model(given, [run])
    tell(sentence)
    backbone = load_backbone(section)
    if as_lora is not None:
        error = export_plain(run, backbone, as_lora, rank=rank or RANK)
        tell(f"Wrote it as a plain LoRA to {as_lora}. It differs from the original by {error:.2%}.")
        return
    export_merged(run, backbone, out, dtype=dtype)
    tell(f"Wrote the model, with the LoRA merged in, to {out}.")
    tell(f"Use it with --model {out}, or DiffusionPipeline.from_pretrained({str(out)!r}).")


export_command = SettingsCommand(
    "export",
    callback=_export,
    help="Write a trained LoRA in another form. RUN is a run folder or a LoRA file.",
    params=[
        click.Argument(["run"], type=click.Path(path_type=Path), metavar="RUN"),
        click.Option(
            ["--merged"],
            type=click.Path(path_type=Path),
            metavar="FOLDER",
            help="Write the whole pipeline, with the LoRA merged in, to this new folder.",
        ),
        click.Option(
            ["--as-lora"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Write a DoRA (or LoHa, LoKr) as a plain LoRA to this new file, for A1111 and Forge.",
        ),
        click.Option(
            ["--rank"],
            type=click.IntRange(min=1),
            help="Rank of the plain LoRA made from a DoRA; 64 if not given.",
        ),
        *model_flags("the model that the LoRA was made for"),
        click.Option(
            ["--dtype"],
            type=click.Choice(["fp32", "fp16"]),
            default="fp32",
            show_default=True,
            help="Precision of the written weights.",
        ),
    ],
    keys=MODEL_KEYS,
)
