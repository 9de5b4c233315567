"""What the commands for files share: which model a LoRA is for, what is kept of it, where the result goes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.flags import given_model, model_flags
from finetune.cli.terminal import table, tell
from finetune.files import check_writable

if TYPE_CHECKING:
    from finetune.backbones import Backbone
    from finetune.tools import Target
    from finetune.tools.blocks import Layer
    from finetune.tools.low_rank import Kept

MODEL_OF_LORA = "the model that the file says it was made for, or the published one of its family"


def structure_flags() -> list[click.Parameter]:
    """`--model` and `--set`, for files of which only the model's structure must be known."""
    return model_flags(MODEL_OF_LORA)


def structure(loras: Sequence[Path], model: str | None, changes: Sequence[str]) -> Backbone:
    """The structure of the model that LoRAs are for; no weights are loaded.

    Args:
        loras: Run folders or LoRA files.
        model: `--model`.
        changes: `--set`.

    Raises:
        UserError: If a file or the model is missing, or nothing tells which model it is.
    """
    from finetune.recipes.model import model_of, resolved
    from finetune.tools.source import structure_for

    given = given_model(model, changes)
    named = resolved(given)[0] if "name" in given.model_fields_set else None
    return structure_for(loras, named, model_of(loras[0]))


def limit_flags() -> list[click.Parameter]:
    """`--rank` and `--energy`."""
    return [
        click.Option(["--rank"], type=click.IntRange(min=1), help="The largest rank of a layer."),
        click.Option(
            ["--energy"],
            type=click.FloatRange(0, 1, min_open=True),
            metavar="SHARE",
            help="Give each layer the smallest rank that keeps this share of its energy (the squared "
            "singular values), such as 0.95; with --rank, never more than that.",
        ),
    ]


def target_flags(dtype: str = "that of the input") -> list[click.Parameter]:
    """`--output`, `--to`, `--dtype` and `--force`.

    Args:
        dtype: The default that help shows for `--dtype`.
    """
    return [
        click.Option(
            ["--output"],
            type=click.Path(path_type=Path),
            required=True,
            metavar="FILE",
            help="The file to write.",
        ),
        click.Option(
            ["--to"],
            type=click.Choice(["kohya", "diffusers"]),
            default="kohya",
            show_default=True,
            help="Whose key names to write. A1111, Forge, ComfyUI, InvokeAI and diffusers read kohya's.",
        ),
        click.Option(
            ["--dtype"],
            type=click.Choice(["fp32", "fp16", "bf16"]),
            help=f"Precision of the written weights.  [default: {dtype}]",
        ),
        click.Option(["--force"], is_flag=True, help="Replace the file if it is there."),
    ]


def target(output: Path, to: Any, dtype: str | None, force: bool) -> Target:
    """The file to write, checked before anything else is done.

    Raises:
        ConfigError: If it exists and must not be replaced.
        OSError: If it cannot be written there.
    """
    from finetune.backbones.precision import PRECISIONS
    from finetune.tools import Target

    made = Target(output, to, PRECISIONS[dtype] if dtype else None, force)
    made.check()
    check_writable(output.parent)
    return made


def tell_kept(layers: Mapping[Layer, Kept], before: Mapping[Layer, int] | None = None) -> None:
    """Writes a table of what is kept of each block.

    Args:
        layers: The new layers.
        before: Their ranks before, where they had one.
    """
    from finetune.tools.blocks import by_block, span

    heads = ("rank", "new rank") if before else ("rank",)
    rows = [("block", "layers", *heads, "energy kept")]
    for name, keys in by_block({key: key for key in layers}).items():
        kept = [layers[key] for key in keys]
        whole, lost = sum(one.whole for one in kept), sum(one.lost for one in kept)
        ranks = (*([span(before[key] for key in keys)] if before else []), span(k.lora.rank for k in kept))
        rows.append((name, str(len(keys)), *ranks, f"{1 - lost / whole:.2%}" if whole else "–"))
    for line in table(rows, right=range(1, len(rows[0]))):
        tell(line)
