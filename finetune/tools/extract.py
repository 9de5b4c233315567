"""A LoRA from the difference of two models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from finetune.adapters.weights import LoRAWeights
from finetune.backbones import Backbone
from finetune.backbones.checkpoint import read_header
from finetune.backbones.resolve import place
from finetune.config.model import ModelSection, public_name
from finetune.errors import ModelError
from finetune.formats.metadata import as_text, model_metadata
from finetune.formats.model_folder import told_in
from finetune.tools.blocks import Layer
from finetune.tools.low_rank import Kept, Limit, of_matrix
from finetune.tools.resize import Progress
from finetune.tools.result import Target
from finetune.tools.weights import count_tensors, pairs


@dataclass(frozen=True)
class Extracted:
    """What became of the difference.

    Attributes:
        layers: The LoRA's layers.
        elsewhere: The squared norm of the difference in weights that a LoRA cannot change (biases, norms,
            embeddings), by part of the model.
    """

    layers: Mapping[Layer, Kept]
    elsewhere: Mapping[str, float]

    @property
    def held(self) -> float:
        """The share of the squared difference, the VAE's left out, that is in layers a LoRA can change."""
        inside = sum(kept.whole for kept in self.layers.values())
        outside = sum(square for part, square in self.elsewhere.items() if part != "vae")
        return inside / (inside + outside)


@torch.no_grad()
def extract(
    base: Backbone,
    tuned: Backbone,
    target: Target,
    limit: Limit,
    section: ModelSection,
    made: Mapping[str, Any] | None = None,
    report: Progress | None = None,
) -> Extracted:
    """Writes the LoRA that turns one model into another, as nearly as its rank allows.

    The difference of each linear layer and convolution of UNet and text encoders is cut to its largest
    singular values. Layers without a difference are left out. One layer at a time is in memory in fp32.

    Args:
        base: The model that the LoRA will be used with, as stored.
        tuned: One that was trained from it.
        target: The file to write.
        limit: The largest rank, the share of energy to keep, or both.
        section: What the base is called.
        made: The metadata that say how the tuned model was made.
        report: Told the weights done and their number.

    Raises:
        ConfigError: If the file exists, or there is no limit.
        ModelError: If the models differ in structure, or not at all; nothing is written then.
    """
    limit.check()
    target.check()
    layers, elsewhere = dict[Layer, Kept](), dict[str, float]()
    total = count_tensors(base)
    for done, pair in enumerate(pairs(base, tuned), 1):
        if not pair.equal:
            if pair.adaptable:
                layers[pair.layer] = of_matrix(pair.difference()).cut(limit)
            else:
                square = float(pair.difference().double().square().sum())
                elsewhere[pair.layer[0]] = elsewhere.get(pair.layer[0], 0.0) + square
        if report:
            report(done, total)
    if not layers:
        raise ModelError(
            f"{tuned.name} and {base.name} do not differ in any layer that a LoRA can change.",
            fix="Give the model that was trained, and the one it was trained from as --model.",
        )
    about = {"tool": "extract", "rank": limit.rank, "energy": limit.energy, "base": _model(base)}
    about["tuned"] = _model(tuned) | {"metadata": dict(made or {})}
    weights = LoRAWeights({key: kept.lora for key, kept in layers.items()}, _metadata(base, target, section))
    target.write(weights, base, about, [])
    return Extracted(layers, elsewhere)


def told_by(model: Path) -> Mapping[str, Any]:
    """What a model's folder, its run's or its file says about how it was made; empty if nothing."""
    path = place(str(model))
    try:
        if path.is_file():
            return read_header(path, allow_pickle=False).metadata
    except ModelError:
        return {}
    return told_in(path)


def _model(backbone: Backbone) -> dict[str, Any]:
    """A model in metadata: its name without folders, and the hash of its content."""
    return {"model": public_name(backbone.name), "fingerprint": backbone.fingerprint()}


def _metadata(base: Backbone, target: Target, section: ModelSection) -> dict[str, str]:
    name = public_name(section.name)
    model = section.model_dump(mode="json", exclude={"allow_pickle"}) | {"name": name}
    told = model_metadata(base, target.path.stem, base.native_size)
    return as_text({"ss_sd_model_name": name, **told, "finetune.recipe": {"model": model}})
