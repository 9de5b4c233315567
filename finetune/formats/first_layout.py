"""The first layout of LoRA files, of cloneofsimo/lora: recognized, not read.

Its keys are `unet:0:up`, `unet:0:down`, `text_encoder:0:up` …, and words such as `<s1>`. The numbers
count the layers in the order in which that program walks the model; no layer has a name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from finetune.errors import WeightsError

_KEY = re.compile(r"\w+:\d+:(up|down)")


def refuse_first_layout(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuses a file in this layout and says how to use it.

    Raises:
        WeightsError: If it is one.
    """
    pairs = [key for key in tensors if _KEY.fullmatch(key)]
    if pairs:
        words = sorted(key for key in tensors if key.startswith("<"))
        beside = f", with embeddings of {', '.join(words[:3])}" if words else ""
        raise WeightsError(
            f"This is a LoRA in the first layout, that of cloneofsimo/lora{beside}. Its layers have numbers "
            f"instead of names ({pairs[0]}), so it cannot be read.",
            where=str(file),
            fix="Merge it with that project's own program, `lora_add BASE_MODEL FILE OUT 1.0 --mode upl`, "
            "and give OUT as --model.",
        )
