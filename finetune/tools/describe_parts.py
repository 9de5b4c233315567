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

_WITH_CONTROLNETS = ("A1111 (ControlNet extension)", "Forge", "ComfyUI")


@dataclass(frozen=True)
class Part:
    """A kind of file.

    Attributes:
        kind: What it is called.
        layout: Whose names it has, if there are several.
        marks: Beginnings of names that only such files have.
        loads_in: Programs that load it.
        note: What else to know.
    """

    kind: str
    marks: tuple[str, ...]
    layout: str = ""
    loads_in: tuple[str, ...] = ()
    note: str = ""


# The first match counts. What is said of A1111, Forge and ComfyUI is known from their code.
PARTS = (
    Part("Control-LoRA", (MARK,), loads_in=("ComfyUI", "diffusers (load_lora_adapter)", "finetune")),
    Part(
        "ControlNet",
        ("control_model.", "zero_convs.", "input_hint_block."),
        "the original code",
        (*_WITH_CONTROLNETS, "diffusers (from_single_file; not for SDXL)", "finetune"),
    ),
    Part(
        "ControlNet",
        ("controlnet_cond_embedding.", "controlnet_down_blocks."),
        "diffusers",
        (*_WITH_CONTROLNETS, "diffusers (in a folder with its config.json)", "finetune"),
    ),
    Part("T2I-Adapter", ("adapter.", "body."), loads_in=_WITH_CONTROLNETS, note="It is not a ControlNet."),
    Part("IP-Adapter", ("image_proj", "ip_adapter"), note="It takes pictures as prompts."),
    Part(
        "VAE",
        ("first_stage_model.", "encoder.conv_in.", "encoder.down."),
        loads_in=("A1111", "Forge", "ComfyUI", "finetune (--set model.vae)"),
    ),
    Part("UNet", ("model.diffusion_model.", "time_embedding."), note="It is no whole model."),
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
        "loads_in": list(part.loads_in) or ["other programs' extensions"],
        "notes": [part.note] if part.note else [],
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
