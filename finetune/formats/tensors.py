"""safetensors files: written whole, and the same bytes each time (P2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from finetune.backbones.stream import Layout, Planned, planned
from finetune.errors import WeightsError
from finetune.files import whole_file
from finetune.formats.hashes import Hashes

FLOATS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
)
"""What weights are stored in; each is read as fp32."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file that depends on its content alone.

    Args:
        path: The file; it appears whole or not at all.
        tensors: By name; moved to the CPU and made contiguous.
        metadata: Text by name; hashes are added where its standards have them (`formats.hashes`).

    Raises:
        WeightsError: If a tensor is not finite; nothing is written then.
    """
    write_planned(path, {name: planned(tensor) for name, tensor in tensors.items()}, metadata)


def write_planned(path: Path, tensors: Mapping[str, Planned], metadata: Mapping[str, str]) -> None:
    """As `write_tensors`, of tensors that are made one by one.

    The safetensors library keeps metadata in a hash map and writes it in another order each time, and takes
    all tensors at once, so it is not used for this. The header is written again at the end, as long as
    before, since it has hashes of what comes after it.
    """
    layout = Layout(tensors)
    hashes = Hashes(metadata, layout.beginning)
    with whole_file(path) as aside, aside.open("wb") as file:
        file.write(layout.beginning(hashes.metadata()))
        for block in layout.blocks(str(path)):
            file.write(block)
            hashes.update(block)
        file.seek(0)
        file.write(layout.beginning(hashes.metadata()))


def damaged(what: str, file: Path) -> WeightsError:
    """The error for a file whose content is not what it should be."""
    return WeightsError(what, where=str(file), fix="Get the file again.")


def check_floats(tensors: Mapping[str, Tensor], file: Path) -> None:
    """Refuses weights that are not floating-point numbers; a single integer is fine as an alpha.

    Raises:
        WeightsError: Naming the first few.
    """
    faults = [
        f"{name} is {str(tensor.dtype).removeprefix('torch.')}"
        for name, tensor in tensors.items()
        if tensor.dtype not in FLOATS and not _integer_alpha(name, tensor)
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise WeightsError(
            f"Weights must be floating-point numbers, but {'; '.join(faults[:3])}{more}.",
            where=str(file),
            fix="Get the file in fp16, bf16 or fp32.",
        )


def _integer_alpha(name: str, tensor: Tensor) -> bool:
    integer = not (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool)
    return name.endswith(".alpha") and tensor.numel() == 1 and integer
