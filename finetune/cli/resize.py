"""`finetune resize`: a LoRA of lower rank."""

from __future__ import annotations

from pathlib import Path

import click

from finetune.cli.files import limit_flags, structure, structure_flags, target, target_flags, tell_kept
from finetune.cli.flags import SettingsCommand
from finetune.cli.imports import large_imports
from finetune.cli.terminal import progress, size, tell_end
from finetune.recipes.load import MODEL_KEYS


def _resize(
    lora: Path,
    output: Path,
    to: str,
    dtype: str | None,
    force: bool,
    rank: int | None,
    energy: float | None,
    model: str | None,
    changes: tuple[str, ...],
) -> None:
    with large_imports():
        from finetune.formats import find_lora
        from finetune.tools import Limit, resize
    limit = Limit(rank, energy)
    limit.check()
    made, before = target(output, to, dtype, force), find_lora(lora).stat().st_size
    backbone = structure([lora], model, changes)
    with progress("Resizing") as report:
        resized = resize(lora, backbone, made, limit, report)
    tell_kept(resized.layers, resized.before)
    tell_end(
        f"Wrote {output} ({size(output.stat().st_size)} instead of {size(before)}). "
        f"It differs from the original by {resized.error:.2%}.",
        [output],
    )


resize_command = SettingsCommand(
    "resize",
    callback=_resize,
    help="Write a LoRA of lower rank, the nearest to the original there is. LORA is a run folder or a "
    "LoRA file; a LoHa or LoKr becomes a plain LoRA.",
    params=[
        click.Argument(["lora"], type=click.Path(path_type=Path), metavar="LORA"),
        *target_flags(),
        *limit_flags(),
        *structure_flags(),
    ],
    keys=MODEL_KEYS,
)
