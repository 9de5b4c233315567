"""A LoRA, LoHa or LoKr in another layout."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune.adapters.algorithms import held_by_peft
from finetune.adapters.algorithms.decomposed import Decomposed
from finetune.adapters.algorithms.difference import Difference
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.config import LoRASection
from finetune.errors import WeightsError
from finetune.export.job import Job
from finetune.files import whole_folder
from finetune.formats import read_lora
from finetune.formats.diffusers import write_diffusers_weights
from finetune.formats.kohya import write_kohya_weights
from finetune.formats.peft import write_peft
from finetune.formats.read import DIFFUSERS_FILE
from finetune.formats.write import own_metadata


def write_kohya_file(job: Job) -> str:
    """With kohya's key names."""
    weights = weighted(job)
    section, about = section_of(weights), job.told(own_metadata(weights.metadata))
    write_kohya_weights(job.out, weights, job.backbone, section, about, job.dtype)
    if weights.vectors or not all(map(held_by_peft, weights.layers.values())):
        return (
            "This program loads it with --lora; A1111 and ComfyUI have code for its names, not tested here."
        )
    return "A1111, Forge, ComfyUI and InvokeAI load it; this program with --lora."


def write_diffusers_file(job: Job) -> str:
    """With diffusers' key names."""
    weights = _for_peft(weighted(job), "diffusers' layout", job.source)
    about = job.told(own_metadata(weights.metadata))
    loads = write_diffusers_weights(job.out, weights, section_of(weights), about, job.dtype)
    folder, name = str(job.out.parent), job.out.name
    if not loads:
        return f"diffusers loads it with pipe.unet.load_lora_adapter({str(job.out)!r}).{_without(weights)}"
    named = "" if name == DIFFUSERS_FILE else f", weight_name={name!r}"
    return f"diffusers loads it with pipe.load_lora_weights({folder!r}{named}).{_without(weights)}"


def write_peft_folder(job: Job) -> str:
    """As PEFT's adapter folders."""
    weights = _for_peft(weighted(job), "PEFT's layout", job.source)
    with whole_folder(job.out) as folder:
        about = job.told(own_metadata(weights.metadata))
        write_peft(folder, weights, job.backbone, section_of(weights), about, job.dtype)
    reads = f"PEFT loads it with PeftModel.from_pretrained(unet, {str(job.out / 'unet')!r})."
    return f"{reads}{_without(weights)}"


def _without(weights: LoRAWeights) -> str:
    """Says that new words have no place in a layout."""
    words = ", ".join(word.text for word in weights.words)
    return f" {words} is not in it: write the word with --to embedding." if words else ""


def weighted(job: Job) -> LoRAWeights:
    """What the job's LoRA has learned, with its weight multiplied into it.

    Raises:
        WeightsError: If it is damaged or does not fit the model, or has DoRA magnitudes and a weight.
    """
    weights = read_lora(job.source, job.backbone)
    if job.weight == 1:
        return weights
    if weights.has_dora:
        raise WeightsError(
            "The weight of a DoRA cannot be changed in its file: its change is not in proportion to it.",
            where=str(job.source),
            fix="Leave --weight out, or write a plain LoRA with --to plain-lora first.",
        )
    layers = {key: _times(layer, job.weight) for key, layer in weights.layers.items()}
    vectors = {key: vector * job.weight for key, vector in weights.vectors.items()}
    return replace(weights, layers=layers, vectors=vectors)


def _for_peft(weights: LoRAWeights, layout: str, source: Path) -> LoRAWeights:
    """Refuses what PEFT has no layers for; else gives it back."""
    others = [name for (_, name), layer in weights.layers.items() if not held_by_peft(layer)]
    if others:
        what = "DoRA magnitudes by input or of a LoHa or LoKr" if weights.has_dora else "full differences"
        raise WeightsError(
            f"{layout} has no place for {what}, which {len(others)} layers have ({others[0]}).",
            where=str(source),
            fix="Use --to kohya or merged, or --to plain-lora for a LoRA that is near.",
        )
    refuse_vectors(weights, layout, source)
    return weights


def refuse_vectors(weights: LoRAWeights, layout: str, source: Path) -> None:
    """Makes sure that there are only changes of weights, where nothing else has a place.

    Raises:
        WeightsError: If biases or norms are changed too.
    """
    if weights.vectors:
        first = min(name for _, name in weights.vectors)
        raise WeightsError(
            f"{layout[0].upper()}{layout[1:]} has no place for changes of biases and norms, and there are "
            f"{len(weights.vectors)} ({first}).",
            where=str(source),
            fix="Use --to kohya or merged.",
        )


def _times(layer: LayerWeights, weight: float) -> LayerWeights:
    fields: Any = layer  # a data class with an alpha, whatever the algorithm
    scaled: LayerWeights = replace(fields, alpha=layer.alpha * weight)
    return scaled


def section_of(weights: LoRAWeights) -> LoRASection:
    """The settings that the layers of a LoRA show, whoever trained it."""
    layers = [layer for layer in weights.layers.values() if not isinstance(layer, Difference)]
    if not layers:
        return LoRASection()
    ranks: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}
    for layer in layers:
        ranks[math.prod(layer.shape[2:]) > 1][layer.rank] += 1
    (rank, _), *_ = (ranks[False] or ranks[True]).most_common(1)
    (algorithm, _), *_ = Counter(
        (layer.inner if isinstance(layer, Decomposed) else layer).algorithm for layer in layers
    ).most_common(1)
    return LoRASection(
        algorithm=algorithm,
        rank=rank,
        alpha=float(rank),
        conv_rank=ranks[True].most_common(1)[0][0] if ranks[True] else None,
        factor=_factor(weights.metadata),
        dora=weights.has_dora and algorithm == "lora",
    )


def _factor(metadata: Mapping[str, str]) -> int | None:
    """LoKr's, which its layers do not show: as kohya's scripts and LyCORIS note it."""
    try:
        factor = int(json.loads(metadata.get("ss_network_args", "{}"))["factor"])
    except (ValueError, TypeError, KeyError):
        return None
    return factor if factor > 0 else None
