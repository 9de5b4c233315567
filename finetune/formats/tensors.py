"""safetensors files: written whole, and the same bytes each time (P2)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from finetune.backbones.finite import refuse_non_finite
from finetune.errors import WeightsError
from finetune.files import whole_file
from finetune.formats.hashes import with_hashes

FLOATS = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz, torch.float8_e5m2fnuz),
)
"""What weights are stored in; each is read as fp32."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file that depends on its content alone.

    The safetensors library keeps metadata in a hash map and writes it in another order each time,
    so the header is rewritten here with its metadata sorted.

    Args:
        path: The file; it appears whole or not at all.
        tensors: By name; moved to the CPU and made contiguous.
        metadata: Text by name; hashes are added where its standards have them (`formats.hashes`).

    Raises:
        WeightsError: If a tensor is not finite; nothing is written then.
    """
    refuse_non_finite(tensors, str(path))
    data = safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in tensors.items()})
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    content = memoryview(data)[8 + length :]

    def beginning(known: Mapping[str, str]) -> bytes:
        whole = {"__metadata__": dict(sorted(known.items())), **header}
        text = json.dumps(whole, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
        return len(text).to_bytes(8, "little") + text

    with whole_file(path) as aside, aside.open("wb") as file:
        file.write(beginning(with_hashes(metadata, content, beginning)))
        file.write(content)


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
