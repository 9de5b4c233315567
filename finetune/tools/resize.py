"""A LoRA of lower rank, as near to the original as its rank allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from finetune.backbones import Backbone
from finetune.tools.blocks import Layer
from finetune.tools.low_rank import Kept, Limit, of_product
from finetune.tools.result import Target
from finetune.tools.source import read_source

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Resized:
    """What became of each layer.

    Attributes:
        before: The rank of each layer in the original, as a LoRA.
        layers: The new layers.
    """

    before: Mapping[Layer, int]
    layers: Mapping[Layer, Kept]

    @property
    def error(self) -> float:
        """The norm of what was cut off, divided by the norm of the whole change."""
        return relative_error(self.layers)


def resize(
    lora: Path, backbone: Backbone, target: Target, limit: Limit, report: Progress | None = None
) -> Resized:
    """Writes a LoRA whose layers are the best approximations of another's within a limit.

    A LoHa, a LoKr or a LoCon with a core becomes a plain LoRA of its full change first. A layer whose rank is
    within the limit already keeps its change.

    Args:
        lora: A run folder or a LoRA file in any layout.
        backbone: The model it is for; only its structure is used.
        target: The file to write.
        limit: The largest rank, the share of energy to keep, or both.
        report: Told the layers done and their number.

    Raises:
        ConfigError: If the file exists, or there is no limit.
        WeightsError: If the LoRA is damaged, does not fit the model, or is a DoRA; nothing is written then.
    """
    limit.check()
    target.check()
    source = read_source(lora, backbone)
    old, layers, before = source.plain(), dict[Layer, Kept](), dict[Layer, int]()
    for done, (key, layer) in enumerate(old.layers.items(), 1):
        before[key] = layer.low_rank_size
        layers[key] = of_product(layer.low_rank()).cut(limit)
        if report:
            report(done, len(old.layers))
    made = {"tool": "resize", "rank": limit.rank, "energy": limit.energy}
    new = replace(old, layers={key: kept.lora for key, kept in layers.items()})
    target.write(new, backbone, made, [source])
    return Resized(before, layers)


def relative_error(layers: Mapping[Layer, Kept]) -> float:
    """The norm of what was cut off, divided by the norm of the whole change."""
    whole = sum(kept.whole for kept in layers.values())
    return float((sum(kept.lost for kept in layers.values()) / whole) ** 0.5) if whole else 0.0
