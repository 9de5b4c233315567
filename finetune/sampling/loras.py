"""LoRAs from files, beside a model's weights or merged into them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune.backbones import Backbone
from finetune.config.blocks import unmatched_prefixes
from finetune.errors import ConfigError
from finetune.formats import Applied, apply_lora, read_lora
from finetune.sampling.settings import SamplingSection
from finetune.sampling.spans import acts

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


@contextmanager
def acting(
    loras: Sequence[tuple[Applied, float]], merged: int, settings: SamplingSection
) -> Iterator[Callable[[tuple[float, float]], None]]:
    """Inside, LoRAs have the weights that the settings give to their blocks; afterward their own everywhere.

    Args:
        loras: Those beside the weights, with their weights.
        merged: How many others there are.
        settings: Which blocks, and in which steps.

    Yields:
        A function to call before each step with its part of all steps, such as (0, 0.25).

    Raises:
        ConfigError: Others are merged, or a block is in none of them.
    """
    if not settings.changes_loras:
        yield lambda share: None
        return
    if merged or not loras:
        raise ConfigError(
            "LoRAs that are merged into the weights always act everywhere."
            if merged
            else "There is no LoRA.",
            where="lora_blocks, lora_steps",
            fix="Add them with add_lora." if merged else "Give one, or leave these settings out.",
        )
    blocks = settings.lora_blocks
    names = {name for applied, _ in loras for name in applied.layers}
    for prefix, near in unmatched_prefixes(blocks, names):
        heads = sorted({name.partition(".")[0] for name in names})
        raise ConfigError(
            f"The LoRAs have no layer {prefix}.",
            where="lora_blocks",
            fix=f"Did you mean {near}?" if near else f"They have layers in {', '.join(heads)}.",
        )

    def at(share: tuple[float, float]) -> None:
        on = acts(settings.lora_steps, share)
        for applied, weight in loras:
            applied.set_scale(weight if on else 0.0, blocks)

    try:
        at(settings.lora_steps)  # the text encoders come before all steps
        yield at
    finally:
        for applied, weight in loras:
            applied.set_scale(weight)


def _name(path: Path) -> str:
    """The run's name for a run folder or the file diffusers expects in one; else the file's."""
    if path.suffix != ".safetensors":
        return path.resolve().name
    return path.resolve().parent.name if path.stem == "pytorch_lora_weights" else path.stem
