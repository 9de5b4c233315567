"""A frozen layer and its update as one node, against the formula."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from finetune.kernels import packed, quantized, with_update

SCALE = 0.75


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def exact(x: Tensor, layer: nn.Module, down: Tensor, up: Tensor, gradient: Tensor) -> list[Tensor]:
    """(W + s·B·A)·x + b and its gradients, in fp64."""
    x, down, up = (t.double().requires_grad_() for t in (x, down, up))
    weight = layer.weight.detach().double() + SCALE * up @ down  # type: ignore[union-attr, operator]
    output = x @ weight.T
    if layer.bias is not None:
        output = output + layer.bias.detach().double()  # type: ignore[union-attr, operator]
    return [output.detach(), *torch.autograd.grad(output, (x, down, up), gradient.double())]


def error(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("shape", [(3, 24), (2, 5, 24), (2, 2, 3, 24)])
@pytest.mark.parametrize("kind", ["plain", "without bias", "packed", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_output_and_gradients_are_those_of_the_formula(
    shape: tuple[int, ...], kind: str, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    layer: nn.Module = nn.Linear(24, 40, bias=kind != "without bias").requires_grad_(False)
    if kind == "int8":
        layer = quantized(layer, "int8")
    x, gradient = draw(*shape), draw(*shape[:-1], 40, seed=3)
    down, up = nn.Parameter(draw(4, 24, seed=1)), nn.Parameter(draw(40, 4, seed=2))
    truth = exact(x, layer, down.detach(), up.detach(), gradient)
    given = x.clone().requires_grad_()
    with packed([layer]) if kind == "packed" else nullcontext():
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = with_update(given, layer, down, up, SCALE)  # type: ignore[arg-type]
        assert output.dtype == (torch.float32 if kind == "packed" else dtype)
        found = torch.autograd.grad(output, (given, down, up), gradient.to(output.dtype))
    assert all(value.dtype == torch.float32 for value in found)
    for value, right in zip((output.detach(), *found), truth, strict=True):
        assert value.shape == right.shape
        assert error(value, right) < (1e-6 if dtype == torch.float32 else 0.015)


def test_the_factors_get_gradients_also_if_the_input_needs_none() -> None:
    layer = nn.Linear(8, 6).requires_grad_(False)
    down, up = nn.Parameter(draw(2, 8)), nn.Parameter(draw(6, 2, seed=1))
    output = with_update(draw(3, 8, seed=2), layer, down, up, 1.0)
    output.sum().backward()
    assert down.grad is not None and up.grad is not None
    with torch.no_grad():
        assert not with_update(draw(3, 8, seed=2), layer, down, up, 1.0).requires_grad
    assert layer.weight.grad is None


def test_it_keeps_less_than_pytorch_s_chain() -> None:
    layer = nn.Linear(64, 64).requires_grad_(False).bfloat16()
    down, up = nn.Parameter(draw(4, 64)), nn.Parameter(draw(64, 4, seed=1))
    x = draw(256, 64).bfloat16().requires_grad_()

    def kept(compute: object) -> int:
        sizes: dict[int, int] = {}

        def note(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            compute()  # type: ignore[operator]
        return sum(sizes.values())

    chain = kept(lambda: layer(x) + 1.0 * (x.float() @ down.T @ up.T).bfloat16())
    assert kept(lambda: with_update(x, layer, down, up, 1.0)) < 0.6 * chain
