"""Packed layers against PyTorch's own, in outputs, gradients and memory."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from finetune.kernels import can_pack, packed

LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(48, 80), (2, 7, 48)),
    "odd": (lambda: nn.Linear(5, 7, bias=False), (3, 5)),
    "3x3": (lambda: nn.Conv2d(32, 48, 3, padding=1), (2, 32, 8, 8)),
    "1x1": (lambda: nn.Conv2d(32, 16, 1), (1, 32, 4, 6)),
    "unpadded": (lambda: nn.Conv2d(7, 5, 3, bias=False), (1, 7, 9, 5)),
    "halved": (lambda: nn.Conv2d(32, 48, 3, stride=2, padding=1), (2, 32, 8, 8)),
    "halved, odd": (lambda: nn.Conv2d(16, 8, 3, stride=2), (1, 16, 9, 6)),
    "skipping": (lambda: nn.Conv2d(4, 8, 2, stride=(3, 1), padding=1), (2, 4, 8, 5)),
    "uneven": (lambda: nn.Conv2d(4, 8, (3, 5), padding=(0, 2)), (1, 4, 6, 7)),
}


FP32 = 4 * torch.finfo(torch.float32).eps  # sums in another order differ by as much


@pytest.fixture(params=LAYERS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, Tensor]:
    make, shape = LAYERS[request.param]
    torch.manual_seed(0)
    return make().requires_grad_(False), torch.randn(shape)


def run(layer: nn.Module, x: Tensor, seed: int = 1) -> tuple[Tensor, Tensor]:
    """The output, and the gradient of the input for a random gradient of the output."""
    x = x.detach().clone().requires_grad_()
    output = layer(x)
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output))
    assert x.grad is not None
    return output.detach(), x.grad


def error(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_packed_layer_rounds_no_worse_than_a_plain_one(
    case: tuple[nn.Module, Tensor], dtype: torch.dtype
) -> None:
    layer, x = case[0].to(dtype), case[1].to(dtype)
    truth = run(copy.deepcopy(layer).double(), x.double())
    plain = run(layer, x)
    with packed([layer]):
        first, again = run(layer, x), run(layer, x)
    for value, other, same, true in zip(first, plain, again, truth, strict=True):
        assert value.dtype == dtype
        assert error(value, true) <= max(1.2 * error(other, true), FP32)
        assert torch.equal(value, same)


def test_a_packed_layer_takes_inputs_of_every_size(case: tuple[nn.Module, Tensor]) -> None:
    layer, x = case
    larger = torch.cat([x, x.flip(0)]) if x.ndim < 4 else x.repeat(3, 1, 2, 2)
    plain = run(layer, larger)
    with packed([layer]):
        run(layer, x)
        for value, other in zip(run(layer, larger), plain, strict=True):
            torch.testing.assert_close(value, other)


def test_weights_come_back_to_the_bit_and_read_as_nan_meanwhile(case: tuple[nn.Module, Tensor]) -> None:
    layer, x = case
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    with packed([layer]):
        run(layer, x)
        weight = layer.state_dict()["weight"]
        assert weight.isnan().all()
        assert weight.shape == before["weight"].shape
        assert weight.untyped_storage().nbytes() == 4  # it takes no memory
    after = layer.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert torch.equal(layer(x), type(layer).forward(layer, x))


def test_weights_come_back_after_an_error(case: tuple[nn.Module, Tensor]) -> None:
    layer, x = case
    before = layer.state_dict()["weight"].clone()
    with pytest.raises(RuntimeError), packed([layer]):
        layer(layer(x)[..., :1])  # of the wrong size
    assert torch.equal(layer.state_dict()["weight"], before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_came_first_does_not_matter(name: str, dtype: torch.dtype) -> None:
    """Or a resumed run, which begins with samples of another number or shape, would end in other bytes."""
    torch.manual_seed(0)
    make, (_, *rest) = LAYERS[name]
    layer = make().requires_grad_(False).to(dtype)
    if not can_pack(layer):
        pytest.skip("not packed in this precision")
    if len(rest) == 1:
        shapes = [(1, *rest), (2, *rest), (64, *rest)]
    else:
        shapes = [(1, 1, rest[-1]), (1, *rest), (3, *rest)]
        if isinstance(layer, nn.Conv2d):
            shapes = [(1, *rest), (3, *rest), (1, rest[0], rest[1] * 2, rest[2] + 3)]
    inputs = [torch.randn(shape).to(dtype) for shape in shapes]
    found = []
    for first in range(len(inputs)):
        with packed([layer]):
            run(layer, inputs[first])
            found.append([run(layer, x) for x in inputs])
    for results in found[1:]:
        for (output, gradient), (expected, expected_gradient) in zip(results, found[0], strict=True):
            assert torch.equal(output, expected) and torch.equal(gradient, expected_gradient)


def test_layers_may_share_a_weight() -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(16, 8).requires_grad_(False), nn.Linear(16, 8)
    second.weight, second.bias = first.weight, first.bias
    x = torch.randn(3, 16)
    plain = first(x)
    with packed([first, second]):
        torch.testing.assert_close(first(x), plain)
        torch.testing.assert_close(second(x), plain)


def test_nothing_is_kept_for_an_input_without_gradient(case: tuple[nn.Module, Tensor]) -> None:
    layer, x = case
    with packed([layer]):
        assert not layer(x).requires_grad
        with torch.no_grad():
            assert not layer(x.requires_grad_()).requires_grad


def test_inputs_are_converted_to_the_precision_of_the_weight() -> None:
    layer = nn.Linear(8, 8).requires_grad_(False).bfloat16()
    with packed([layer]):
        assert layer(torch.ones(1, 8)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 4),
        nn.Conv2d(4, 4, 3).requires_grad_(False).half(),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Linear(4, 4, device="meta"),
        nn.Linear(4, 4, dtype=torch.bfloat16).requires_grad_(False),
        nn.GroupNorm(2, 4),
    ],
    ids=["trained", "fp16", "dilated", "grouped", "same", "circular", "elsewhere", "bf16", "norm"],
)
def test_other_layers_are_left_alone(layer: nn.Module) -> None:
    if not isinstance(layer, nn.Linear) or layer.weight.device.type == "meta":
        layer.requires_grad_(False)
    assert not can_pack(layer)
