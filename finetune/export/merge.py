"""A whole diffusers model with a LoRA merged into its weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from finetune.backbones import Backbone
from finetune.backbones.precision import PRECISIONS
from finetune.backbones.saving import save_folder
from finetune.errors import ConfigError, WeightsError
from finetune.files import remove_partials, whole_folder
from finetune.formats import apply_lora, find_lora, read_lora

ABOUT = "finetune.json"


def export_merged(
    lora: str | Path,
    backbone: Backbone,
    out_dir: str | Path,
    *,
    scale: float = 1.0,
    dtype: Literal["fp32", "fp16"] = "fp32",
) -> Path:
    """Writes the model with the LoRA merged in, for `DiffusionPipeline.from_pretrained`.

    The same goes for a LoHa or LoKr; new words that were learned with it are in the model too. The folder
    also holds `finetune.json`, which says what was merged and how it was made (P7).

    Args:
        lora: A run folder or a LoRA file in any layout.
        backbone: The model to merge into, in fp32; afterwards it is what it was before, to the bit.
        out_dir: The folder to write; it appears whole or not at all.
        scale: Weight of the LoRA: 1 as trained.
        dtype: Of the weights in the folder.

    Returns:
        `out_dir`.

    Raises:
        ConfigError: If `out_dir` exists and is not an empty folder.
        WeightsError: If the LoRA is damaged or does not fit the model, or a weight is not finite; nothing is
            written then.
    """
    out = Path(out_dir)
    check_free(out)
    file = find_lora(Path(lora))
    weights = read_lora(lora, backbone)
    applied = apply_lora(backbone, weights, scale)
    try:
        restore = applied.merge()
    except ValueError as error:
        raise WeightsError(
            "Merged weights are not finite.", where=str(file), fix="Lower the scale."
        ) from error
    try:
        remove_partials(out.parent)
        with whole_folder(out) as folder:
            save_folder(backbone, folder, PRECISIONS[dtype])
            about = {"merged": file.name, "scale": scale, "dtype": dtype, "metadata": dict(weights.metadata)}
            (folder / ABOUT).write_text(json.dumps(about, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    finally:
        restore()
    return out


def check_free(out: Path) -> None:
    """Makes sure that a result may be written to `out`.

    Raises:
        ConfigError: If it exists and is not an empty folder.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ConfigError(
            "This already exists, and results are never overwritten.",
            where=str(out),
            fix="Give a name that does not exist yet.",
        )
