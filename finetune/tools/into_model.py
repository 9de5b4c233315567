"""A model with LoRAs in its weights, as a diffusers folder or as one file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from finetune.backbones import Backbone
from finetune.backbones.precision import precision_name
from finetune.files import remove_partials
from finetune.formats import write_checkpoint
from finetune.formats.merged import merged
from finetune.formats.metadata import as_text, model_metadata
from finetune.formats.model_folder import check_free, write_model_folder
from finetune.tools.result import MADE_BY


def merge_into(
    loras: Sequence[tuple[Path, float]],
    backbone: Backbone,
    out: Path,
    *,
    dtype: torch.dtype = torch.float32,
    force: bool = False,
) -> None:
    """Writes the model with LoRAs merged in.

    The same goes for a LoHa or LoKr; new words that were learned with them are in the model too. The result
    says what was merged and how that was made (P7): a folder in its `finetune.json`, a file in its metadata.

    Args:
        loras: Run folders or LoRA files in any layout, each with its weight: 1 as trained.
        backbone: The model to merge into, in any precision; afterwards it is what it was before, to the bit.
        out: A folder, for `DiffusionPipeline.from_pretrained`, or a .safetensors file under the original
            code's names; it appears whole or not at all.
        dtype: Of the written weights.
        force: Whether a file or folder that is there is replaced.

    Raises:
        ConfigError: If `out` exists and is not an empty folder, or the model knows one of the new words.
        WeightsError: As `formats.merged.merged`, or if a weight is not finite in this precision; nothing is
            written then.
    """
    check_free(out, force)
    with merged(loras, backbone) as sum_of:
        made = {"tool": "merge", "dtype": precision_name(dtype), "inputs": sum_of.about}
        remove_partials(out.parent)
        if out.suffix == ".safetensors":
            told = model_metadata(backbone, out.stem, backbone.native_size)
            told["modelspec.architecture"] = told["modelspec.architecture"].removesuffix("/lora")
            write_checkpoint(out, backbone, as_text(told | {MADE_BY: made}), dtype, sum_of.changes)
            return
        write_model_folder(out, backbone, as_text({MADE_BY: made}), dtype, sum_of.changes)
