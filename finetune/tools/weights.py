"""The weights of two models side by side, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from finetune.adapters.inject import adaptable
from finetune.backbones import Backbone
from finetune.errors import ModelError
from finetune.formats.families import FAMILY_NAMES
from finetune.kernels import release_mapped
from finetune.tools.blocks import Layer


@dataclass(frozen=True)
class Pair:
    """One tensor of two models.

    Attributes:
        layer: Its part and name in files; without `.weight` for the weight of a layer that a LoRA can change.
        first: In the first model, as stored.
        second: In the second model, as stored.
        adaptable: Whether a LoRA can change it.
    """

    layer: Layer
    first: Tensor
    second: Tensor
    adaptable: bool

    @property
    def equal(self) -> bool:
        """Whether they are the same numbers, as far as the coarser of their types can tell."""
        dtype = min(self.first.dtype, self.second.dtype, key=lambda dtype: dtype.itemsize)
        return torch.equal(self.first.to(dtype), self.second.to(dtype))

    def difference(self) -> Tensor:
        """The second minus the first, in fp32."""
        return self.second.float() - self.first.float()


def count_tensors(backbone: Backbone) -> int:
    """The number of pairs that `pairs` gives."""
    return sum(len(module.state_dict()) for module in _parts(backbone).values())


def pairs(first: Backbone, second: Backbone) -> Iterator[Pair]:
    """All weights of two models: UNet, text encoders and VAE.

    Weights that were mapped from files take memory only while they are looked at.

    Raises:
        ModelError: If they are of different families, or a weight differs in shape or is missing.
    """
    if first.family != second.family:
        titles = (f"{model.name} is {FAMILY_NAMES[model.family].title}" for model in (first, second))
        raise ModelError(f"{', but '.join(titles)}.", fix="Give two models of one family.")
    others = _parts(second)
    for part, module in _parts(first).items():
        layers = {f"{name}.weight": name for name in adaptable(module)} if part != "vae" else {}
        state, other = module.state_dict(), others[part].state_dict()
        _refuse_others({n: t.shape for n, t in state.items()}, {n: t.shape for n, t in other.items()}, part)
        for name, tensor in state.items():
            own = layers.get(name)
            file_name = name if part == "vae" else first.file_name(part, own or name)
            yield Pair((part, file_name), tensor, other[name], own is not None)
            for held in (tensor, other[name]):
                release_mapped(held)


def _refuse_others(first: dict[str, torch.Size], second: dict[str, torch.Size], part: str) -> None:
    differ = [name for name in first.keys() | second.keys() if first.get(name) != second.get(name)]
    if differ:
        name = min(differ)
        shapes = (str(tuple(found[name])) if name in found else "missing" for found in (first, second))
        raise ModelError(
            f"The models differ in structure: {part}.{name} is {' in one and '.join(shapes)} in the other.",
            fix="Give two models of the same structure, such as a model and one trained from it.",
        )


def _parts(backbone: Backbone) -> dict[str, torch.nn.Module]:
    return {**backbone.module_roots(), "vae": backbone.vae}
