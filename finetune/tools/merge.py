"""Several LoRAs as one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from finetune.adapters.algorithms.lora import LowRank, as_low_rank
from finetune.adapters.weights import LayerWeights, LoRAWeights
from finetune.backbones import Backbone
from finetune.backbones.words import Word
from finetune.config.choices import imported
from finetune.config.merging import METHODS
from finetune.diffusion.random import draw_seed
from finetune.errors import ConfigError
from finetune.formats.metadata import as_text
from finetune.tools.blocks import Layer
from finetune.tools.low_rank import Kept, Limit, of_matrix, of_product
from finetune.tools.resize import Progress
from finetune.tools.result import Target
from finetune.tools.source import Source, read_source

# What metadata say about the model, and not about one training. It still holds if all inputs say the same.
ABOUT_THE_MODEL = (
    *("ss_base_model_version", "ss_sd_model_name", "ss_sd_model_hash", "ss_v2", "modelspec.sai_model_spec"),
    *("modelspec.architecture", "modelspec.implementation", "modelspec.resolution"),
    "modelspec.prediction_type",
)


@dataclass(frozen=True)
class Plan:
    """How LoRAs are combined.

    Attributes:
        method: A key of `METHODS`.
        limit: How much of each layer's combined change is kept; the largest of the inputs' ranks by default.
        density: The share of entries that TIES, DARE and pruning keep of each LoRA, above 0 and below 1.
        seed: Of DARE's draws, which depend on it and on the layer's name only.
    """

    method: str = "concat"
    limit: Limit = Limit()  # noqa: RUF009 - frozen
    density: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks that they go together."""
        if not METHODS[self.method].cut and self.limit != Limit():
            raise ConfigError(
                f"{self.method} adds LoRAs up exactly, with all their ranks.",
                where="--method",
                fix="Use --method svd to cut the sum to a rank.",
            )


def merge(
    loras: Sequence[tuple[Path, float]],
    backbone: Backbone,
    target: Target,
    plan: Plan,
    report: Progress | None = None,
) -> dict[Layer, Kept]:
    """Writes one LoRA that changes a model as several together do.

    With `concat` and `svd` the change of each layer is the weighted sum of theirs. The other methods are
    those that PEFT calls by the same name with `_svd`: TIES (Yadav et al. 2023, arXiv:2306.01708), DARE (Yu
    et al. 2023, arXiv:2311.03099) and pruning by magnitude, each on the whole changes, whose result is cut
    to a rank. All new words are kept, whatever the weights.

    Args:
        loras: Run folders or LoRA files in any layouts, each with its weight.
        backbone: The model they are for; only its structure is used.
        target: The file to write.
        plan: How.
        report: Told the layers done and their number.

    Returns:
        The new layers, and how much was cut off.

    Raises:
        ConfigError: If the file exists, or two LoRAs have different words of the same name.
        WeightsError: If a LoRA is damaged, does not fit the model, or is a DoRA; nothing is written then.
    """
    target.check()
    sources = [read_source(path, backbone, weight) for path, weight in loras]
    inputs = [source.plain() for source in sources]
    words = _words(sources)
    layers: dict[Layer, Kept] = {}
    keys = list(dict.fromkeys(key for weights in inputs for key in weights.layers))
    for done, key in enumerate(keys, 1):
        found = [(w.layers[key], s.weight) for w, s in zip(inputs, sources, strict=True) if key in w.layers]
        layers[key] = combine(found, plan, ".".join(key))
        if report:
            report(done, len(keys))
    new = LoRAWeights({key: kept.lora for key, kept in layers.items()}, _metadata(sources), words)
    target.write(new, backbone, _about(plan), sources)
    return layers


@torch.no_grad()
def combine(layers: Sequence[tuple[LayerWeights, float]], plan: Plan, name: str) -> Kept:
    """Updates of one layer as one.

    Args:
        layers: The updates, each with its weight.
        plan: How.
        name: The layer's name, for DARE's draws.
    """
    method = METHODS[plan.method]
    limit = plan.limit
    if limit == Limit():
        limit = Limit(max(layer.low_rank_size for layer, _ in layers))
    if method.function is None:
        total = _added([(layer.low_rank(), weight) for layer, weight in layers])
        if method.cut:
            return of_product(total).cut(limit)
        return Kept(total, float(total.delta().double().square().sum()), 0.0)
    weights = torch.tensor([weight for _, weight in layers])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw_seed(plan.seed, 0, f"dare/{name}"))
        changes = [layer.delta() for layer, _ in layers]
        return of_matrix(imported(method.function)(changes, weights, plan.density)).cut(limit)


def _added(layers: Sequence[tuple[LowRank, float]]) -> LowRank:
    """The weighted sum, as a LoRA whose rank is the sum of theirs."""
    up = torch.cat([weight * layer.scale * layer.up.flatten(1) for layer, weight in layers], dim=1)
    down = torch.cat([layer.down.flatten(1) for layer, _ in layers])
    return as_low_rank(up, down, 1.0, layers[0][0].shape)


def _words(sources: Sequence[Source]) -> tuple[Word, ...]:
    """All new words; a word may be in several files if it is the same in all of them."""
    found: dict[str, tuple[Word, Source]] = {}
    for source in sources:
        for word in source.weights.words:
            other, first = found.setdefault(word.text, (word, source))
            same = len(other.rows) == len(word.rows) and all(map(torch.equal, other.rows, word.rows))
            if not same:
                raise ConfigError(
                    f"This LoRA and {first.file.name} both have a new word {word.text}, and they differ.",
                    where=str(source.file),
                    fix="Train one of them again with another word (adapter.placeholder).",
                )
    return tuple(word for word, _ in found.values())


def _metadata(sources: Sequence[Source]) -> dict[str, str]:
    """What all inputs say alike about the model."""
    first, *others = (source.weights.metadata for source in sources)
    kept = {
        key: first[key]
        for key in ABOUT_THE_MODEL
        if key in first and all(other.get(key) == first[key] for other in others)
    }
    models = [_model(source.weights.metadata) for source in sources]
    if models[0] is not None and all(model == models[0] for model in models):
        kept |= as_text({"finetune.recipe": {"model": models[0]}})
    return kept | ({"modelspec.title": ""} if "modelspec.sai_model_spec" in kept else {})


def _model(metadata: Mapping[str, str]) -> object:
    """The model section of the recipe in a file."""
    try:
        return json.loads(metadata.get("finetune.recipe", "{}")).get("model")
    except (ValueError, AttributeError):
        return None


def _about(plan: Plan) -> dict[str, object]:
    """The tool and the settings that matter to the method."""
    method = METHODS[plan.method]
    settings = {name: getattr(plan, name) for name in method.settings}
    limit = {"rank": plan.limit.rank, "energy": plan.limit.energy} if method.cut else {}
    return {"tool": "merge", "method": plan.method, **settings, **limit}
