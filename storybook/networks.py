"""What the small networks that read pictures share: their layers, and how they are kept in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from finetune.errors import WeightsError
from finetune.files import whole_file

NetworkT = TypeVar("NetworkT", bound=nn.Module)


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution with batch normalisation and ReLU."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def save_network(network: nn.Module, out: Path) -> None:
    """Writes a network in half precision; the file appears whole or not at all."""
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in network.state_dict().items()
    }
    with whole_file(out) as aside:
        save_file(state, aside, metadata={"format": "pt"})


def load_network(make: Callable[[], NetworkT], path: Path, name: str) -> NetworkT:
    """Reads a network in single precision.

    Args:
        make: Makes one of the right structure.
        path: The file.
        name: `oracle` or `segmenter`, for the message.

    Raises:
        WeightsError: The file is missing, damaged, or of another network.
    """
    # Only the shapes are wanted here: no weights are drawn, the random state stays as it is.
    with torch.device("meta"):
        network = make()
    try:
        state = load_file(path)
        state = {key: t.float() if t.is_floating_point() else t for key, t in state.items()}
        network.load_state_dict(state, assign=True)
    except (OSError, SafetensorError, RuntimeError) as fault:
        raise WeightsError(
            f"The {name}'s weights cannot be read: {str(fault).splitlines()[0]}",
            where=str(path),
            fix=f"Train one with `python -m storybook.{name}_training --out FILE`.",
        ) from fault
    return network
