"""Reads safetensors files, as data only (P6)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
from torch import Tensor

from finetune.errors import WeightsError


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Reads a safetensors file.

    Returns:
        Its tensors, on the CPU, and its metadata.

    Raises:
        WeightsError: If it cannot be read, is not a safetensors file, or is truncated.
    """
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118


def read_names(path: Path) -> tuple[list[str], dict[str, str]]:
    """As `read_tensors`, but the names of the tensors alone: only the beginning of the file is read."""
    outline, metadata = read_outline(path)
    return list(outline), metadata


def read_outline(path: Path) -> tuple[dict[str, tuple[tuple[int, ...], str]], dict[str, str]]:
    """As `read_tensors`, but of each tensor only its shape and its type, as safetensors calls it ("F32")."""
    with _opened(path) as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        outline = {name: (tuple(one.get_shape()), one.get_dtype()) for name, one in slices.items()}
        return outline, dict(file.metadata() or {})


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            yield file
    except (OSError, safetensors.SafetensorError) as error:
        raise WeightsError(
            "This is not a readable safetensors file, or it is truncated.",
            where=str(path),
            fix="Check that the download is complete; pickled weights (.pt, .ckpt, .bin) are not loaded.",
        ) from error
