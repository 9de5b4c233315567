"""One layer's tensors and the update that they mean, in numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.formats.keys import Role
from finetune.formats.layers import Strength, layer_weights

# Of rank 3 and nothing but ones, for a layer of 4 x 6, and what every entry of the product is then.
KINDS: dict[str, tuple[dict[Role, Tensor], float]] = {
    "lora": ({"down": torch.ones(3, 6), "up": torch.ones(4, 3)}, 3),
    "loha": (
        {
            "hada_w1_a": torch.ones(4, 3),
            "hada_w1_b": torch.ones(3, 6),
            "hada_w2_a": torch.ones(4, 3),
            "hada_w2_b": torch.ones(3, 6),
        },
        9,
    ),
    "lokr": ({"lokr_w1": torch.ones(2, 2), "lokr_w2_a": torch.ones(2, 3), "lokr_w2_b": torch.ones(3, 3)}, 3),
}


def change(kind: str, layer: str = "q", **config: Any) -> float:
    """What every entry of the product is multiplied by, read from PEFT's settings or a tensor `alpha`."""
    rows, product = KINDS[kind]
    alpha = config.pop("tensor", None)
    if alpha is not None:
        rows = rows | {"alpha": torch.tensor(alpha)}
    delta = layer_weights(rows, (4, 6), Strength(layer, config)).delta()
    assert delta.shape == (4, 6) and (delta == delta[0, 0]).all()
    return float(delta[0, 0]) / product


@pytest.mark.parametrize("kind", KINDS)
def test_the_strength_is_alpha_by_rank(kind: str) -> None:
    alpha = "lora_alpha" if kind == "lora" else "alpha"
    settings: dict[str, Any] = {"r": 3, alpha: 6}
    assert change(kind) == 1
    assert change(kind, tensor=6.0) == change(kind, **settings) == 2
    assert change(kind, tensor=0.75, **settings) == 0.25  # the file's own tensor counts before settings
    for layer, scale in (("q", 5), ("k", 2)):
        assert change(kind, layer, **settings, alpha_pattern={"^q": 15}) == scale


def test_a_rank_stabilised_strength_is_alpha_by_its_root() -> None:
    assert change("lora", r=3, lora_alpha=6, use_rslora=True) == pytest.approx(6 / 3**0.5)


def test_the_left_factor_of_a_lokr_is_the_outer_one() -> None:
    left, right = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[0.0, 5], [6, 7]])
    product = [[0, 5, 0, 10], [6, 7, 12, 14], [0, 15, 0, 20], [18, 21, 24, 28]]
    rows: list[dict[Role, Tensor]] = [
        {"lokr_w1": left, "lokr_w2": right},
        {"lokr_w1": left, "lokr_w2_a": right, "lokr_w2_b": torch.eye(2)},
    ]
    for row in rows:
        assert layer_weights(row, (4, 4), Strength("q", {})).delta().tolist() == product
