"""LoRAs merged into a model's weights, one weight at a time: when it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from finetune.adapters.alone import merged_weight
from finetune.adapters.changes import added
from finetune.adapters.weights import LoRAWeights
from finetune.backbones import Backbone
from finetune.backbones.names import live_text_name
from finetune.backbones.planned import Changes
from finetune.backbones.words import AddedWord
from finetune.errors import WeightsError
from finetune.files import sha256_of
from finetune.formats.read import find_lora, read_lora

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Merged:
    """LoRAs, and what they make of a model.

    Attributes:
        about: Name, hash, weight and metadata of each file.
        changes: What becomes of the model's weights.
    """

    about: list[dict[str, Any]] = field(default_factory=list)
    changes: Changes = field(default_factory=dict)


@contextmanager
def merged(loras: Sequence[tuple[Path, float]], backbone: Backbone) -> Iterator[Merged]:
    """What is to be written as the model with LoRAs in it.

    No weight is merged before it is asked for, so that the model is never held twice, and its own stay as
    they are. Inside, the model knows the new words that were learned with the LoRAs; afterwards it is what it
    was.

    Args:
        loras: Run folders or LoRA files in any layout, each with its weight: 1 as trained.
        backbone: The model, in any precision; merging is done in fp32.

    Yields:
        The changes. One raises `WeightsError` if a merged weight is not finite.

    Raises:
        ConfigError: If the model knows one of the new words.
        WeightsError: If a LoRA is damaged or does not fit the model, or there is a DoRA among several; the
            model is then as before.
    """
    read = [(find_lora(path), read_lora(path, backbone), weight) for path, weight in loras]
    for file, weights, _ in read if len(read) > 1 else ():
        if weights.has_dora:
            raise WeightsError(
                "This is a DoRA: what it changes depends on the weights, and so on what was merged before.",
                where=str(file),
                fix="Merge it alone, or make it a plain LoRA: finetune export LORA --to plain-lora -o FILE.",
            )
    roots, changes = backbone.module_roots(), dict[tuple[str, str], Change]()
    for file, weights, scale in read:
        for key, change in _changes(roots, weights, scale).items():
            changes[key] = _after(changes.get(key), _told(change, file))
    words: list[AddedWord] = []
    try:
        for _, weights, _ in read:
            for word in weights.words:
                words.append(AddedWord(backbone, word))
        yield Merged(
            [
                {"file": file.name, "sha256": sha256_of(file), "weight": weight, "metadata": dict(w.metadata)}
                for file, w, weight in read
            ],
            changes,
        )
    finally:
        for added_word in reversed(words):
            added_word.remove()


def _changes(
    roots: Mapping[str, nn.Module], weights: LoRAWeights, scale: float
) -> dict[tuple[str, str], Change]:
    """What one LoRA makes of each weight, by part and name in the part's `state_dict`."""
    changes: dict[tuple[str, str], Change] = {}
    for (part, name), layer in weights.layers.items():
        live = _live(roots, part, name)
        module = roots[part].get_submodule(live)
        changes[part, f"{live}.weight"] = partial(merged_weight, module, layer, scale)
    for (part, name), vector in weights.vectors.items():
        changes[part, _live(roots, part, name)] = partial(added, vector.to, scale)
    return changes


def _live(roots: Mapping[str, nn.Module], part: str, name: str) -> str:
    return name if part == "unet" else live_text_name(roots[part], name)


def _after(first: Change | None, then: Change) -> Change:
    return then if first is None else lambda weight: then(first(weight))


def _told(change: Change, file: Path) -> Change:
    """The change, whose failure names the LoRA's file."""

    def told(weight: Tensor) -> Tensor:
        try:
            return change(weight)
        except ValueError as error:
            raise WeightsError(
                "Merged weights are not finite.", where=str(file), fix="Lower the weight of the LoRA."
            ) from error

    return told
