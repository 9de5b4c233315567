"""`finetune merge`: several LoRAs into one, or into a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.cli.files import limit_flags, structure, structure_flags, target, target_flags, tell_kept
from finetune.cli.flags import SettingsCommand, given_model, setting_flag
from finetune.cli.imports import large_imports
from finetune.cli.terminal import progress, quiet_loading, size, tell, tell_end
from finetune.config import ModelSection
from finetune.config.merging import METHODS
from finetune.files import check_writable
from finetune.recipes.load import MODEL_KEYS
from finetune.sampling.specs import parse_lora

Specs = list[tuple[Path, float]]


def _merge(
    loras: tuple[str, ...],
    into_model: bool,
    output: Path,
    force: bool,
    dtype: str | None,
    model: str | None,
    vae: str | None,
    changes: tuple[str, ...],
    to: str,
    **plan: Any,
) -> None:
    specs = [parse_lora(lora) for lora in loras]
    given = {name: value for name, value in plan.items() if value is not None}
    if into_model:
        if given or to != "kohya":
            names = ", ".join(f"--{name}" for name in (*given, *(["to"] if to != "kohya" else [])))
            raise click.UsageError(
                f"--into-model adds LoRAs up as they are, so {names} would have no effect."
            )
        _into_model(specs, output, force, dtype or "fp32", given_model(model, changes, vae))
        return
    if vae is not None:
        raise click.UsageError("--vae requires --into-model.")
    _into_one(specs, given, output, to, dtype, force, model, changes)


def _into_one(
    specs: Specs,
    given: dict[str, Any],
    output: Path,
    to: str,
    dtype: str | None,
    force: bool,
    model: str | None,
    changes: tuple[str, ...],
) -> None:
    method = given.pop("method", "svd" if given.keys() & {"rank", "energy"} else "concat")
    for name in ("density", "seed"):
        if name in given and name not in METHODS[method].settings:
            able = ", ".join(METHODS.that_use(name) or ())
            raise click.UsageError(f"--{name} has an effect with --method {able} only.")
    with large_imports():
        from finetune.data.notes import count
        from finetune.tools import Limit, Plan, merge, relative_error

        limit = Limit(given.pop("rank", None), given.pop("energy", None))
        plan = Plan(method, limit, **given)
    made = target(output, to, dtype, force)
    backbone = structure([path for path, _ in specs], model, changes)
    with progress("Merging") as report:
        layers = merge(specs, backbone, made, plan, report)
    tell_kept(layers)
    line = f"Wrote {output} ({size(output.stat().st_size)}): {count(len(specs), 'LoRA')} by {method}."
    if METHODS[method].cut:
        line += f" What was cut to the rank differs from the whole by {relative_error(layers):.2%}."
    tell_end(line, [output])


def _into_model(specs: Specs, out: Path, force: bool, dtype: Any, given: ModelSection) -> None:
    with large_imports():
        from finetune.backbones import load_stored
        from finetune.backbones.precision import PRECISIONS
        from finetune.data.notes import count
        from finetune.formats.checkpoint import readers
        from finetune.formats.model_folder import check_free
        from finetune.recipes.model import choose_model
        from finetune.tools import merge_into

        quiet_loading()
    check_free(out, force)
    check_writable(out.parent)
    section, sentence = choose_model(given, [path for path, _ in specs])
    tell(sentence)
    backbone = load_stored(section)
    merge_into(specs, backbone, out, dtype=PRECISIONS[dtype], force=force)
    reads = readers(backbone, out) if out.suffix == ".safetensors" else f"Use it with --model {out}."
    tell_end(f"Wrote the model, with {count(len(specs), 'LoRA')} merged in, to {out}. {reads}", [out])


_METHODS = "; ".join(f"{name} {row.summary}" for name, row in METHODS.items())

merge_command = SettingsCommand(
    "merge",
    callback=_merge,
    help="Write several LoRAs as one LoRA file, or a model with LoRAs merged in. Each LORA is a run folder "
    "or a LoRA file, with a weight (1 if not given).",
    params=[
        click.Argument(["loras"], nargs=-1, required=True, metavar="LORA[:WEIGHT]..."),
        *target_flags("that of the first input; fp32 with --into-model"),
        click.Option(
            ["--into-model"],
            is_flag=True,
            help="Merge them into the model instead, and write it: as a diffusers folder, or as a single "
            "file if --output ends in .safetensors.",
        ),
        click.Option(
            ["--method"],
            type=click.Choice(list(METHODS)),
            help=f"How: {_METHODS}.  [default: concat; svd with --rank or --energy]",
        ),
        *limit_flags(),
        click.Option(
            ["--density"],
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            metavar="SHARE",
            help="The share of entries that TIES, DARE and pruning keep.  [default: 0.5]",
        ),
        click.Option(["--seed"], type=click.IntRange(min=0), help="Of what DARE drops.  [default: 0]"),
        *structure_flags(),
        setting_flag("--vae", ModelSection.model_fields["vae"]),
    ],
    keys=MODEL_KEYS,
)
