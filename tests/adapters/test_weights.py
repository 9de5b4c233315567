"""LoHa and LoKr: their formulas, PEFT's layers, and the LoRAs that are equal to them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from finetune.adapters import Hadamard, Kronecker, LoRA, LowRank
from finetune.backbones import Backbone
from finetune.config import LoRASection
from finetune.errors import ConfigError

CASES: dict[str, dict[str, Any]] = {
    "loha": {"algorithm": "loha", "rank": 2, "conv_rank": 3},
    "loha of more than full rank": {"algorithm": "loha", "rank": 9},
    "lokr": {"algorithm": "lokr", "rank": 1, "conv_rank": 1},
    "lokr with a factor": {"algorithm": "lokr", "rank": 1, "conv_rank": 2, "factor": 2},
    "lokr of whole factors": {"algorithm": "lokr", "rank": 8, "conv_rank": 8},
}
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)


def moved(adapter: LoRA) -> LoRA:
    drawn = torch.Generator().manual_seed(1)
    for parameter in adapter.trained().values():
        parameter.data = torch.randn(parameter.shape, generator=drawn)
    return adapter


@one_family
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_delta_is_pefts_and_that_of_the_equal_lora(case: str, backbone: Backbone) -> None:
    adapter = moved(LoRA(backbone, LoRASection(alpha=3.0, targets="all", **CASES[case])))
    for (part, name), layer in adapter.weights().layers.items():
        live: Any = backbone.module_roots()[part].get_submodule(name)
        delta = layer.delta()
        torch.testing.assert_close(delta, live.get_delta_weight("default"), rtol=1e-4, atol=1e-5)
        equal = layer.low_rank()
        assert equal.rank == layer.low_rank_size
        product = equal.up.flatten(1) @ equal.down.flatten(1) * equal.alpha / equal.rank
        torch.testing.assert_close(product.view(delta.shape), delta, rtol=1e-4, atol=1e-4)
        full = torch.linalg.matrix_rank(delta.flatten(1), rtol=1e-5)
        assert full <= equal.rank <= min(delta.flatten(1).shape)


def draw(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_formulas() -> None:
    """Written out, element by element."""
    hadamard = Hadamard(draw(3, 2), draw(2, 8), draw(3, 2) + 1, draw(2, 8) + 1, 3.0, (3, 2, 2, 2))
    first, second = hadamard.w1_a @ hadamard.w1_b, hadamard.w2_a @ hadamard.w2_b
    torch.testing.assert_close(hadamard.delta(), (1.5 * first * second).view(3, 2, 2, 2))

    for right in [(draw(2, 5),), (draw(2, 1), draw(1, 5))]:
        kronecker = Kronecker((draw(3, 4),), right, 2.0, (6, 20))
        scale = 2.0 if len(right) == 2 else 2.0 / 5
        whole = right[0] @ right[1] if len(right) == 2 else right[0]
        for i, j, k, n in [(0, 0, 0, 0), (2, 3, 1, 4), (1, 2, 0, 3)]:
            expected = scale * kronecker.w1[0][i, j] * whole[k, n]
            torch.testing.assert_close(kronecker.delta()[i * 2 + k, j * 5 + n], expected)
    assert LowRank(draw(2, 5), draw(4, 2), 1.0).delta().shape == (4, 5)


def test_lokr_is_the_textbooks_kronecker_product() -> None:
    left, right = torch.tensor([[1.0, 2], [3, 4]]), torch.tensor([[0.0, 5], [6, 7]])
    product = torch.tensor([[0.0, 5, 0, 10], [6, 7, 12, 14], [0, 15, 0, 20], [18, 21, 24, 28]])
    whole = Kronecker((left,), (right,), 2.0, (4, 4))
    parts = Kronecker((torch.eye(2), left), (right, torch.eye(2)), 2.0, (4, 4))
    for kronecker in (whole, parts):
        assert torch.equal(kronecker.delta(), product)
        assert torch.equal(kronecker.low_rank().delta(), product)
    one, two = ["lokr_w1", "lokr_w2"], ["lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"]
    for kronecker, kinds in ((whole, one), (parts, two)):
        named = kronecker.factors()
        assert list(named) == kinds
        tensors = zip(named.values(), (*kronecker.w1, *kronecker.w2), strict=True)
        assert all(torch.equal(written, tensor) for written, tensor in tensors)


@one_family
def test_start_is_drawn_by_name(backbone: Backbone) -> None:
    for algorithm, zero in (("loha", "hada_w2_b"), ("lokr", "lokr_w1")):
        few = LoRA(backbone, LoRASection(algorithm=algorithm, rank=1, targets=["to_q"]), seed=4)
        start = few.state()
        few.detach()
        many = LoRA(
            backbone, LoRASection(algorithm=algorithm, rank=1, text_encoder=True, conv_rank=1), seed=4
        )
        state = many.state()
        many.detach()
        assert all(torch.equal(state[name], tensor) for name, tensor in start.items())
        assert all(tensor.any() == (not name.endswith(f".{zero}")) for name, tensor in state.items())


@one_family
def test_ranks_by_block(backbone: Backbone) -> None:
    blocks = {"mid_block": 8, "up_blocks.1": 0, "up_blocks.1.attentions.2": 2, "text_encoder": 1}
    section = LoRASection(rank=4, alpha=2.0, conv_rank=3, block_rank=blocks, text_encoder=True)
    adapter = LoRA(backbone, section)
    layers = adapter.weights().layers
    adapter.detach()

    def found(beginning: str) -> set[tuple[int, float]]:
        return {
            (w.rank, w.alpha) for (part, name), w in layers.items() if f"{part}.{name}".startswith(beginning)
        }

    assert found("unet.mid_block.attentions") == {(8, 4.0)}  # alpha/rank stays 1/2
    assert found("unet.mid_block.resnets") == {(8, 8.0)}  # and 1 for convolutions
    assert found("unet.up_blocks.1.attentions.0") == found("unet.up_blocks.1.resnets") == set()
    assert found("unet.up_blocks.1.attentions.2") == {(2, 1.0)}
    assert found("unet.down_blocks.1.attentions") == {(4, 2.0)}
    assert found("text_encoder.") == {(1, 0.5)}

    rank_stabilised = LoRA(
        backbone, LoRASection(rank=4, alpha=2.0, rslora=True, block_rank={"mid_block": 16})
    )
    layer = next(w for (_, n), w in rank_stabilised.weights().layers.items() if n.startswith("mid_block"))
    assert layer.scale == pytest.approx(2.0 / 4)  # alpha/√rank


@one_family
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"block_rank": {"midblock": 4}}, 'Nearest: "mid_block"'),
        ({"block_rank": {"up_blocks.0": 4}}, "begins with"),  # SD 1's first up block has no attention
        ({"block_rank": {"": 0}}, "No layer of the UNet"),
        ({"block_rank": {"text_encoder": 0}, "text_encoder": True}, "No layer of the text encoder"),
    ],
)
def test_what_cannot_be(settings: dict[str, Any], told: str, backbone: Backbone) -> None:
    before = [name for name, _ in backbone.unet.named_parameters()]
    with pytest.raises(ConfigError) as caught:
        LoRA(backbone, LoRASection(**settings))
    assert told in str(caught.value) and caught.value.fix
    assert [name for name, _ in backbone.unet.named_parameters()] == before
