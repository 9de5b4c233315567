"""One layer's tensors and the update that they mean, in numbers worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.adapters import LoRAWeights, LowRank
from finetune.adapters.weights import Strength
from finetune.backbones import Backbone
from finetune.formats import apply_lora
from finetune.formats.keys import Role
from finetune.formats.layers import layer_weights

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
WHOLE: dict[Role, Tensor] = {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(2, 3)}


def change(kind: str, layer: str = "q", **config: Any) -> float:
    """What every entry of the product is multiplied by, read from PEFT's settings or a tensor `alpha`."""
    rows, product = KINDS.get(kind, (WHOLE, 1))
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


def test_a_lokr_of_whole_factors_is_scaled_by_pefts_settings_alone() -> None:
    """LyCORIS writes an alpha for it too, and does not use it."""
    settings: dict[str, Any] = {"r": 3, "alpha": 6}
    assert change("whole lokr") == change("whole lokr", tensor=6.0) == 1
    assert change("whole lokr", **settings) == 2
    assert change("whole lokr", tensor=6.0, **settings) == 1


def test_the_left_factor_of_a_lokr_is_the_outer_one() -> None:
    left, right = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[0.0, 5], [6, 7]])
    product = [[0, 5, 0, 10], [6, 7, 12, 14], [0, 15, 0, 20], [18, 21, 24, 28]]
    rows: list[dict[Role, Tensor]] = [
        {"lokr_w1": left, "lokr_w2": right},
        {"lokr_w1": left, "lokr_w2_a": right, "lokr_w2_b": torch.eye(2)},
    ]
    for row in rows:
        assert layer_weights(row, (4, 4), Strength("q", {})).delta().tolist() == product


@pytest.mark.parametrize("family", ["sd1"], indirect=True)
@torch.no_grad()
def test_a_file_may_hold_layers_with_magnitudes_and_without(backbone: Backbone) -> None:
    attention = "mid_block.attentions.0.transformer_blocks.0.attn1"
    q, k = (backbone.unet.get_submodule(f"{attention}.{name}").weight.clone() for name in ("to_q", "to_k"))
    drawn = torch.Generator().manual_seed(0)
    down, up = (torch.randn(*shape, generator=drawn) for shape in ((2, q.shape[1]), (q.shape[0], 2)))
    magnitude = torch.rand(len(q), generator=drawn) + 1
    layers = {
        ("unet", f"{attention}.to_q"): LowRank(down, up, 2.0, magnitude=magnitude),
        ("unet", f"{attention}.to_k"): LowRank(down, up, 2.0),
    }
    apply_lora(backbone, LoRAWeights(layers))
    x = torch.randn(3, q.shape[1], generator=drawn)
    direction = q + up @ down
    wanted = {
        "to_q": x @ (magnitude[:, None] * direction / direction.norm(dim=1, keepdim=True)).T,
        "to_k": x @ (k + up @ down).T,
    }
    for name, value in wanted.items():
        torch.testing.assert_close(backbone.unet.get_submodule(f"{attention}.{name}")(x), value)
