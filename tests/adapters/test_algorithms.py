"""How a DoRA's magnitude is learned and written."""

from __future__ import annotations

import pytest
import torch

from finetune.adapters import LowRank
from finetune.adapters.algorithms.lora import LowRankUpdate
from finetune.adapters.inject import LayerSize, inject
from tests.adapters.test_peft_inside import Small

MAGNITUDE = torch.arange(1.0, 5.0)
LINEAR = LowRank(torch.ones(2, 6), torch.ones(4, 2), 1.0, MAGNITUDE)
CONVOLUTION = LowRank(torch.ones(2, 6, 3, 3), torch.ones(4, 2, 1, 1), 1.0, MAGNITUDE)


@pytest.mark.parametrize(
    ("layer", "kohya", "peft"), [(LINEAR, (4, 1), (4,)), (CONVOLUTION, (4, 1, 1, 1), (1, 4, 1, 1))]
)
def test_the_shape_of_a_magnitude(layer: LowRank, kohya: tuple[int, ...], peft: tuple[int, ...]) -> None:
    """That of LyCORIS, which scales the weight by it, and that of PEFT, which scales outputs."""
    written = {
        kohya: layer.kohya(1.0)["dora_scale"],
        peft: layer.peft("unet")["lora_magnitude_vector"],
    }
    for shape, magnitude in written.items():
        assert magnitude.shape == shape
        assert torch.equal(magnitude.flatten(), MAGNITUDE)
    assert torch.equal(layer.peft("text_encoder")["lora_magnitude_vector.weight"], written[peft])


@torch.no_grad()
def test_the_learned_magnitude_is_among_the_weights() -> None:
    sizes = {"conv": LayerSize(2, 2.0), "linear": LayerSize(2, 2.0)}
    for name, update in inject(Small(), sizes, "one", LowRankUpdate, use_dora=True).items():
        assert update.magnitude is not None
        update.magnitude.add_(1)
        weight = Small().get_submodule(name).weight
        learned = update.weights(update.parameters(), 2.0).magnitude
        assert learned is not None
        torch.testing.assert_close(learned, weight.flatten(1).norm(dim=1) + 1)
    plain = inject(Small(), sizes, "one", LowRankUpdate)["linear"]
    assert plain.weights(plain.parameters(), 2.0).magnitude is None
