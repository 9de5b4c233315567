"""How two LoRAs, or two models, differ: `finetune diff`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.adapters.weights import LayerWeights
from finetune.backbones import Backbone
from finetune.tools.blocks import Layer, by_block
from finetune.tools.resize import Progress
from finetune.tools.source import read_source
from finetune.tools.weights import count_tensors, pairs


@dataclass(frozen=True)
class Row:
    """Two tensors, or the tensors of a block, by squared norms.

    Attributes:
        first: Of the first.
        second: Of the second.
        difference: Of the second minus the first.
    """

    first: float
    second: float
    difference: float

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> Row:
        """Two tensors of one shape."""
        first, second = first.double(), second.double()
        return cls(*(float(tensor.square().sum()) for tensor in (first, second, second - first)))

    @classmethod
    def together(cls, rows: Iterable[Row]) -> Row:
        """All tensors of several rows as one long vector."""
        sums = zip(*((row.first, row.second, row.difference) for row in rows), strict=True)
        return cls(*(math.fsum(squares) for squares in sums))

    def plain(self) -> dict[str, Any]:
        """Norms, the difference's relative to the first (None if that is 0), and the cosine of the angle.

        The cosine is 1 if they point the same way and 0 if they have nothing in common; None if one is 0.
        """
        both = math.sqrt(self.first * self.second)
        return {
            "first": math.sqrt(self.first),
            "second": math.sqrt(self.second),
            "difference": math.sqrt(self.difference / self.first) if self.first else None,
            "cosine": (self.first + self.second - self.difference) / 2 / both if both else None,
        }


@dataclass(frozen=True)
class Comparison:
    """Two LoRAs or two models.

    Attributes:
        rows: The change of each layer of the LoRAs, or each weight of the models.
        only_first: Layers that only the first LoRA has.
        only_second: Layers that only the second LoRA has.
        metadata: The metadata that differ, as they are in the first and the second; None where one has none.
    """

    rows: Mapping[Layer, Row]
    only_first: tuple[Layer, ...] = ()
    only_second: tuple[Layer, ...] = ()
    metadata: Mapping[str, tuple[str | None, str | None]] | None = None

    def plain(self) -> dict[str, Any]:
        """All of it as plain data, ready for JSON."""
        return {
            "equal": not any(row.difference for row in self.rows.values()),
            "blocks": [
                {
                    "block": name,
                    "weights": len(rows),
                    "differ": sum(row.difference > 0 for row in rows),
                    **Row.together(rows).plain(),
                }
                for name, rows in by_block(self.rows).items()
            ],
            "all": Row.together(self.rows.values()).plain(),
            "only_first": [".".join(layer) for layer in self.only_first],
            "only_second": [".".join(layer) for layer in self.only_second],
            "metadata": {key: list(values) for key, values in (self.metadata or {}).items()},
        }


@torch.no_grad()
def compare_loras(
    first: Path, second: Path, backbone: Backbone, report: Progress | None = None
) -> Comparison:
    """Compares how two LoRAs change a model, layer by layer, whatever their layouts and ranks.

    Args:
        first: A run folder or a LoRA file.
        second: The other.
        backbone: The model they are for; only its structure is used.
        report: Told the layers done and their number.

    Raises:
        WeightsError: If one is damaged, does not fit the model, or is a DoRA.
    """
    sources = read_source(first, backbone), read_source(second, backbone)
    one, other = (source.plain() for source in sources)
    keys = list(dict.fromkeys([*one.layers, *other.layers]))
    rows: dict[Layer, Row] = {}
    for done, key in enumerate(keys, 1):
        rows[key] = _row(one.layers.get(key), other.layers.get(key))
        if report:
            report(done, len(keys))
    named = sorted(one.metadata.keys() | other.metadata.keys())
    told = {key: (one.metadata.get(key), other.metadata.get(key)) for key in named}
    return Comparison(
        rows,
        tuple(key for key in keys if key not in other.layers),
        tuple(key for key in keys if key not in one.layers),
        {key: values for key, values in told.items() if values[0] != values[1]},
    )


def _row(one: LayerWeights | None, other: LayerWeights | None) -> Row:
    first, second = (layer.delta() if layer is not None else None for layer in (one, other))
    empty = torch.zeros(())
    return Row.of(
        first if first is not None else empty.expand_as(second),  # type: ignore[arg-type]
        second if second is not None else empty.expand_as(first),  # type: ignore[arg-type]
    )


@torch.no_grad()
def compare_models(first: Backbone, second: Backbone, report: Progress | None = None) -> Comparison:
    """Compares all weights of two models of one structure, one at a time.

    Args:
        first: A model, as stored.
        second: The other.
        report: Told the weights done and their number.

    Raises:
        ModelError: If they differ in structure.
    """
    rows, total = dict[Layer, Row](), count_tensors(first)
    for done, pair in enumerate(pairs(first, second), 1):
        rows[pair.layer] = Row.of(pair.first, pair.second)
        if report:
            report(done, total)
    return Comparison(rows)
