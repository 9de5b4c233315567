"""What is in files of parts that go beside a model: ControlNets, and kinds that this program does not use.

Names and shapes tell; no weights are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune.backbones.branch_file import MARK
from finetune.backbones.controlnet import FOLDER, WEIGHTS
from finetune.backbones.tensors import read_outline
from finetune.formats.families import TEXT_WIDTHS
from finetune.tools.describe_others import TYPES
from finetune.tools.programs import FILES, Loads


@dataclass(frozen=True)
class Part:
    """A kind of file.

    Attributes:
        kind: What it is called.
        marks: Beginnings of names that only such files have.
        loads: Programs that load it.
        layout: Whose names it has, if there are several.
    """

    kind: str
    marks: tuple[str, ...]
    loads: Loads
    layout: str | None = None


_OTHERS = Loads("", ("other programs",), "This program does not use such files.")
# The first match counts.
PARTS = (
    Part("Control-LoRA", (MARK,), FILES["control-lora"]),
    Part(
        "ControlNet",
        ("control_model.", "zero_convs.", "input_hint_block."),
        FILES["controlnet"],
        "the original code",
    ),
    Part(
        "ControlNet",
        ("controlnet_cond_embedding.", "controlnet_down_blocks."),
        FILES["controlnet-folder"],
        "diffusers",
    ),
    Part("T2I-Adapter", ("adapter.", "body."), _OTHERS),
    Part("IP-Adapter", ("image_proj", "ip_adapter"), _OTHERS),
    Part("VAE", ("first_stage_model.", "encoder.conv_in.", "encoder.down."), FILES["vae"]),
    Part("UNet", ("model.diffusion_model.", "time_embedding."), _OTHERS),
)


def describe_part(path: Path) -> dict[str, Any] | None:
    """A file or folder of a part as plain data, ready for JSON; None if it is something else.

    Args:
        path: A safetensors file, a diffusers folder of a ControlNet, or a run folder with one.

    Raises:
        WeightsError: If it is not a readable safetensors file.
    """
    file = _weights_in(path)
    if file is None:
        return None
    outline, metadata = read_outline(file)
    shapes = {name: shape for name, (shape, _) in outline.items()}
    part = _part(shapes)
    if part is None:
        return None
    return {
        "file": path.name,
        "kinds": [part.kind],
        "family": _family(shapes),
        "bytes": file.stat().st_size,
        **({"layout": part.layout} if part.layout else {}),
        "dtypes": dict(Counter(TYPES.get(kind, kind) for _, kind in outline.values()).most_common()),
        "parameters": {"all": sum(map(math.prod, shapes.values()))},
        "loads_in": list(part.loads.programs),
        "notes": [part.loads.note] if part.loads.note else [],
        "metadata": dict(sorted(metadata.items())),
    }


def _weights_in(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix == ".safetensors" else None
    for folder in (path, path / FOLDER):
        if (folder / "config.json").is_file() and (folder / WEIGHTS).is_file():
            return folder / WEIGHTS
    return None


def _part(names: Collection[str]) -> Part | None:
    return next((part for part in PARTS if any(name.startswith(part.marks) for name in names)), None)


def _family(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """By the width of the texts that it attends to."""
    ends = ("attn2.to_k.weight", "attn2.to_k.down")
    widths = (shape[1] for name, shape in shapes.items() if name.endswith(ends) and len(shape) > 1)
    return next((TEXT_WIDTHS[width] for width in widths if width in TEXT_WIDTHS), None)
