"""What the small networks that read pictures share: their layers and their files."""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import ClassVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from typing_extensions import Self

from finetune.errors import WeightsError
from finetune.files import whole_file


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A 3 x 3 convolution with batch normalization and ReLU."""
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


class Reader:
    """Reads pictures with a trained network, on the CPU.

    Attributes:
        name: Name of its file; `NAME_training` is the module that trains it.
        make: The network's class.
    """

    name: ClassVar[str]
    make: ClassVar[type[nn.Module]]

    def __init__(self, network: nn.Module) -> None:
        """Takes a network and puts it into evaluation mode."""
        self.network = network.float().eval().requires_grad_(False)

    @classmethod
    def load(cls, path: Path | None = None) -> Self:
        """Loads the bundled network, or another trained one.

        Raises:
            WeightsError: The file is missing, damaged, or for another network.
        """
        if path is None:
            with as_file(files("storybook") / "models" / f"{cls.name}.safetensors") as bundled:
                return cls.load(bundled)
        # Only the shapes are needed here: no weights are drawn, so the random state is unchanged.
        with torch.device("meta"):
            network = cls.make()
        try:
            state = load_file(path)
            state = {key: t.float() if t.is_floating_point() else t for key, t in state.items()}
            network.load_state_dict(state, assign=True)
        except (OSError, SafetensorError, RuntimeError) as fault:
            raise WeightsError(
                f"The {cls.name}'s weights cannot be read: {str(fault).splitlines()[0]}",
                where=str(path),
                fix=f"Train one with `python -m storybook.{cls.name}_training --out FILE`.",
            ) from fault
        return cls(network)
