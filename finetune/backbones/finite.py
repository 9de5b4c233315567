"""Whether weights are finite floating-point numbers: a single NaN in a file breaks every picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from finetune.errors import WeightsError


@torch.no_grad()
def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor infinity."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # A sum is NaN or infinite if an entry is, and takes a tenth of the time. No copy is made.
    if tensor.element_size() > 1 and bool(torch.isfinite(tensor.sum())):
        return True
    # It may also have overflowed. The largest magnitude cannot.
    return bool(torch.isfinite(torch.linalg.vector_norm(tensor.float(), ord=math.inf)))


def refuse_non_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuses to write weights that are not finite in the precision they are written in.

    Args:
        tensors: By name, in that precision.
        where: The file, for the message.

    Raises:
        WeightsError: Naming the first such tensor.
    """
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            precision = str(tensor.dtype).removeprefix("torch.")
            raise WeightsError(
                f"These weights cannot be written: {name} holds NaN or infinity in {precision}.",
                where=where,
                fix="Train again with a lower optimizer.lr: this training diverged."
                if tensor.dtype == torch.float32
                else "Write them in another precision: output.weights=fp32, or --dtype fp32 for an export.",
            )


def integer_weight(opened: Any) -> str | None:
    """The first weight in an open safetensors file that is not floating-point, with its type, or None."""
    for name in opened.keys():  # noqa: SIM118
        stored = opened.get_slice(name).get_dtype() if name.endswith((".weight", ".bias")) else "F32"
        if not stored.startswith(("F", "BF")):
            return f"{name} is {stored}"
    return None
