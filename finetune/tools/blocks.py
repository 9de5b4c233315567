"""Layers by the part of the model that they are in, for reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

Layer = tuple[str, str]
T = TypeVar("T")


def block_of(layer: Layer) -> str:
    """The block of a layer: `unet down_blocks.1`, `unet mid_block`, `text_encoder`.

    Args:
        layer: Its part and its name in files.
    """
    part, name = layer
    if part != "unet":
        return part
    first, second, *_ = [*name.split("."), ""]
    return f"unet {first}.{second}" if second.isdigit() else f"unet {first}"


def by_block(rows: Mapping[Layer, T]) -> dict[str, list[T]]:
    """What there is of each layer, by block, in the order in which the model computes."""
    found: dict[str, list[T]] = {}
    for layer, row in rows.items():
        found.setdefault(block_of(layer), []).append(row)
    return dict(sorted(found.items(), key=lambda item: _place(item[0])))


def span(numbers: Iterable[float]) -> str:
    """A number, or the smallest and the largest: `16`, `4-32`."""
    low, high = min(found := list(numbers)), max(found)
    return f"{low:g}" if low == high else f"{low:g}-{high:g}"


_ORDER = ("text_encoder", "text_encoder_2", "unet conv_in", "unet time", "unet add", "unet down", "unet mid",
          "unet up")  # fmt: skip


def _place(block: str) -> tuple[int, str]:
    places = [index for index, start in enumerate(_ORDER) if block.startswith(start)]
    return (max(places) if places else len(_ORDER)), block
