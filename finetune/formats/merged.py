"""LoRAs merged into a model's weights for a while."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from finetune.backbones import Backbone
from finetune.errors import WeightsError
from finetune.files import sha256_of
from finetune.formats.apply import apply_lora
from finetune.formats.read import find_lora, read_lora


@contextmanager
def merged(loras: Sequence[tuple[Path, float]], backbone: Backbone) -> Iterator[list[dict[str, Any]]]:
    """Inside, LoRAs are merged into the model; afterwards it is what it was before, to the bit.

    Args:
        loras: Run folders or LoRA files in any layout, each with its weight: 1 as trained.
        backbone: The model, in fp32.

    Yields:
        What was merged: name, hash, weight and metadata of each file.

    Raises:
        ConfigError: If the model knows one of the new words.
        WeightsError: If a LoRA is damaged or does not fit the model, a weight is not finite, or there is
            a DoRA among several; the model is then as before.
    """
    read = [(find_lora(path), read_lora(path, backbone), weight) for path, weight in loras]
    for file, weights, _ in read if len(read) > 1 else ():
        if weights.has_dora:
            raise WeightsError(
                "This is a DoRA: what it changes depends on the weights, and so on what was merged before.",
                where=str(file),
                fix="Merge it alone, or make it a plain LoRA: finetune export LORA --to plain-lora -o FILE.",
            )
    undo: list[Callable[[], None]] = []
    try:
        for file, weights, weight in read:
            try:
                undo.append(apply_lora(backbone, weights, weight).merge())
            except ValueError as error:
                raise WeightsError(
                    "Merged weights are not finite.", where=str(file), fix="Lower the weight of the LoRA."
                ) from error
        yield [
            {"file": file.name, "sha256": sha256_of(file), "weight": weight, "metadata": dict(w.metadata)}
            for file, w, weight in read
        ]
    finally:
        for restore in reversed(undo):
            restore()
