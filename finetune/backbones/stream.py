"""Writes safetensors files tensor by tensor, so that a whole state is never in memory.

The format: 8 bytes with the length of a header, the header in JSON (each tensor's type, shape and place),
then the tensors. So the header can be written before any tensor is made.
https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from finetune.backbones.finite import refuse_non_finite
from finetune.kernels import release_mapped

# What the library calls each type, in the order that it sorts tensors in: the widest first, so that all begin
# at a multiple of their size.
_NAMES = {
    torch.uint64: "U64",
    torch.int64: "I64",
    torch.float64: "F64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.uint32: "U32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint16: "U16",
    torch.int16: "I16",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ORDER = {dtype: place for place, dtype in enumerate(_NAMES)}


@dataclass(frozen=True)
class Planned:
    """A tensor that is made only when it is written.

    Attributes:
        shape: Its shape.
        dtype: Its type in the file.
        make: Makes it, in any type and on any device.
        sources: What it is made from; those that are mapped from files give their memory back afterwards.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    make: Callable[[], Tensor]
    sources: tuple[Tensor, ...] = ()

    @property
    def size(self) -> int:
        """Its bytes in the file."""
        return prod(self.shape) * self.dtype.itemsize

    def cast(self, dtype: torch.dtype | None) -> Planned:
        """The same in another type; unchanged if None."""
        return self if dtype is None else replace(self, dtype=dtype)

    def through(self, function: Callable[[Tensor], Tensor], shape: tuple[int, ...] | None = None) -> Planned:
        """What a function makes of it; `shape` is the new shape, if that differs."""
        return replace(self, shape=shape or self.shape, make=lambda: function(self.make()))

    def made(self) -> Tensor:
        """The tensor as the file has it."""
        with torch.no_grad():
            return self.make().detach().to("cpu", self.dtype).contiguous()


def planned(tensor: Tensor) -> Planned:
    """A tensor that there is already."""
    return Planned(tuple(tensor.shape), tensor.dtype, lambda: tensor, (tensor,))


def joined(rows: Sequence[Planned]) -> Planned:
    """Several tensors of one type below each other."""
    shape = (sum(one.shape[0] for one in rows), *rows[0].shape[1:])
    sources = tuple(source for one in rows for source in one.sources)
    return Planned(shape, rows[0].dtype, lambda: torch.cat([one.make() for one in rows]), sources)


class Layout:
    """Where each tensor is in a file: as the safetensors library itself would order them.

    Args:
        tensors: By name.
    """

    def __init__(self, tensors: Mapping[str, Planned]) -> None:
        self._sorted = sorted(tensors.items(), key=lambda item: (_ORDER[item[1].dtype], item[0]))

    def beginning(self, metadata: Mapping[str, str]) -> bytes:
        """The beginning of the file, up to the tensors, with this metadata, sorted."""
        header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
        end = 0
        for name, tensor in self._sorted:
            begin, end = end, end + tensor.size
            kind, shape = _NAMES[tensor.dtype], list(tensor.shape)
            header[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
        return len(text).to_bytes(8, "little") + text

    def blocks(self, where: str) -> Iterator[memoryview]:
        """The bytes of one tensor after the other. Each is made when its turn comes, and then forgotten.

        Args:
            where: The file, for messages.

        Raises:
            WeightsError: If a tensor is not finite in its type.
            ValueError: If one is not as it was planned.
        """
        for name, tensor in self._sorted:
            made = tensor.made()
            if tuple(made.shape) != tensor.shape:
                raise ValueError(f"{name} has the shape {tuple(made.shape)}, not {tensor.shape}")
            refuse_non_finite({name: made}, where)
            if made.numel():
                yield made.reshape(-1).view(torch.uint8).numpy().data
            for source in tensor.sources:
                release_mapped(source)


def write_stream(file: Path, tensors: Mapping[str, Planned], metadata: Mapping[str, str], where: str) -> None:
    """Writes a safetensors file with sorted metadata.

    Args:
        file: The file. Wrap in `whole_file` or `whole_folder` for all or nothing.
        tensors: By name.
        metadata: Text by name.
        where: What the file is called in messages.

    Raises:
        WeightsError: If a tensor is not finite in its type; the file is then incomplete.
    """
    layout = Layout(tensors)
    with file.open("wb") as opened:
        opened.write(layout.beginning(metadata))
        for block in layout.blocks(where):
            opened.write(block)
