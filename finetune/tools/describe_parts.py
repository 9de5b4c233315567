"""What is in files of parts that go beside a model: ControlNets, and kinds that this program does not use.

Names and shapes tell; no weights are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from finetune.backbones.branch_file import MARK, OWN
from finetune.backbones.controlnet import FOLDER, WEIGHTS
from finetune.backbones.kinds import Kind, kind_of
from finetune.backbones.tensors import read_outline
from finetune.formats.families import TITLES
from finetune.tools.describe_others import TYPES
from finetune.tools.programs import FILES, Loads

# How a ControlNet is stored, by beginnings of names: what it is called, whose names it has, what loads it.
_CONTROLNETS = (
    (MARK, "Control-LoRA", None, FILES["control-lora"]),
    (OWN, "ControlNet", "diffusers", FILES["controlnet-folder"]),
    ("", "ControlNet", "the original code", FILES["controlnet"]),
)
_READ_ELSEWHERE = ("a LoRA", "the embedding of a new word", "a whole model")
_OTHERS = Loads("", ("other programs",), "This program does not use such files.")


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
    kind = kind_of(shapes)
    if kind is None or kind.what in _READ_ELSEWHERE:
        return None
    name, layout, loads = _stored(kind, shapes)
    return {
        "file": path.name,
        "kinds": [name],
        "family": _family(shapes),
        "bytes": file.stat().st_size,
        **({"layout": layout} if layout else {}),
        "dtypes": dict(Counter(TYPES.get(one, one) for _, one in outline.values()).most_common()),
        "parameters": {"all": sum(map(math.prod, shapes.values()))},
        "loads_in": list(loads.programs),
        "notes": [loads.note] if loads.note else [],
        "metadata": dict(sorted(metadata.items())),
    }


def _stored(kind: Kind, names: Collection[str]) -> tuple[str, str | None, Loads]:
    """What a part is called, whose names it has, and the programs that load it."""
    if kind.what == "a ControlNet":
        found = (row for row in _CONTROLNETS if any(name.startswith(row[0]) for name in names))
        _, name, layout, loads = next(found)
        return name, layout, loads
    return kind.what.partition(" ")[2], None, FILES["vae"] if kind.what == "a VAE alone" else _OTHERS


def _weights_in(path: Path) -> Path | None:
    if path.is_file():
        return path if path.suffix == ".safetensors" else None
    for folder in (path, path / FOLDER):
        if (folder / "config.json").is_file() and (folder / WEIGHTS).is_file():
            return folder / WEIGHTS
    return None


def _family(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """By the width of the texts that it attends to."""
    ends = ("attn2.to_k.weight", "attn2.to_k.down")
    widths = (shape[1] for name, shape in shapes.items() if name.endswith(ends) and len(shape) > 1)
    return next((TITLES[width] for width in widths if width in TITLES), None)
