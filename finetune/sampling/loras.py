"""LoRAs from files, beside a model's weights or merged into them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.backbones import Backbone
from finetune.errors import ConfigError
from finetune.formats import Applied, apply_lora, read_lora

Added = tuple[str, float]
"""A LoRA's name and weight."""


def add_lora(backbone: Backbone, path: Path, weight: float) -> tuple[Added, Applied]:
    """Puts a LoRA beside the weights, with the new words that were learned with it.

    Returns:
        Its name and weight, and what can change the weight.

    Raises:
        WeightsError: The file is damaged or does not fit the model; nothing was changed.
        ConfigError: The model knows a word of it already.
    """
    applied = apply_lora(backbone, read_lora(path, backbone), weight)
    return (_name(path), weight), applied


def merge_loras(backbone: Backbone, specs: Sequence[tuple[Path, float]]) -> list[Added]:
    """Adds LoRAs to the weights, for good; the model is then as fast as without them.

    Weights in half precision should be those of the file: not yet cast to the precision to compute in, which
    may be coarser than an update. What a DoRA adds depends on the weights, so several LoRAs with a DoRA
    among them stay beside the weights.

    Raises:
        WeightsError: A file is damaged or does not fit the model.
        ConfigError: The model knows a new word already, or weights would not be finite.
    """
    learned = [read_lora(path, backbone) for path, _ in specs]
    beside = len(specs) > 1 and any(weights.has_dora for weights in learned)
    for (path, weight), weights in zip(specs, learned, strict=True):
        applied = apply_lora(backbone, weights, weight)
        try:
            if not beside:
                applied.merge()
        except ValueError as error:
            raise ConfigError(
                f"With a weight of {weight:g} the LoRA makes weights of the model infinite or NaN.",
                where=str(path),
                fix="Give a smaller weight.",
            ) from error
    return [(_name(path), weight) for path, weight in specs]


def _name(path: Path) -> str:
    """The run's name for a run folder or the file diffusers expects in one; else the file's."""
    if path.suffix != ".safetensors":
        return path.resolve().name
    return path.resolve().parent.name if path.stem == "pytorch_lora_weights" else path.stem
