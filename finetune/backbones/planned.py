"""A model's weights as they are to be written, each made from the model's own when its turn comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from finetune.backbones.stream import Planned, planned

Changes = Mapping[tuple[str, str], Callable[[Tensor], Tensor]]
"""What becomes of weights in a written model: for each part (`unet`, `text_encoder`, …) and name in that
part's `state_dict`, a function from the weight in fp32 to the new one, of the same shape."""


def planned_state(part: str, module: nn.Module, changes: Changes | None = None) -> dict[str, Planned]:
    """The weights of a part of a model, by their names in its `state_dict`.

    Each is in the type that the model has it in. What was mapped from a file gives its memory back when it
    has been written.

    Args:
        part: The part's name.
        module: The part.
        changes: What differs from the model.
    """
    weights = {name: planned(tensor) for name, tensor in module.state_dict().items()}
    for (changed, name), change in (changes or {}).items():
        if changed == part:
            weights[name] = weights[name].through(_in_fp32(change))
    return weights


def _in_fp32(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda weight: change(weight.float())
