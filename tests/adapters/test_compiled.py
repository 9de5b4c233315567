"""What compiled blocks compute, against the plain way."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock

from finetune.backbones import Backbone
from finetune.kernels import compiled, swapped
from finetune.recipes import build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run
from tests.adapters.test_faster import attach, gradients

pytestmark = pytest.mark.filterwarnings("ignore")  # those of PyTorch about its own compiler


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd2"])
@pytest.mark.parametrize(("name", "checkpointed"), [("plain", True), ("controlnet", False)])
def test_traced_blocks_give_the_same_gradients(
    name: str, checkpointed: bool, backbone: Backbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = attach(name, backbone)
    if checkpointed:
        adapter.enable_gradient_checkpointing()
    plain = gradients(adapter, torch.float32, fast=False)
    # All of the compiler but the last part, which translates to C++ and takes minutes.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    swaps = compiled(adapter)
    with swapped(swaps):
        torch.testing.assert_close(gradients(adapter, torch.float32, fast=False), plain, rtol=1e-3, atol=1e-5)
    assert torch.equal(gradients(adapter, torch.float32, fast=False), plain)  # nothing is left of it
    assert torch._dynamo.utils.counters["graph_break"] == {}  # each block as a whole
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="needs a C++ compiler")
def test_a_block_is_compiled_for_the_processor() -> None:
    drawn = torch.Generator().manual_seed(0)
    block = BasicTransformerBlock(32, 2, 16, cross_attention_dim=24).eval()
    x, told = torch.randn(2, 16, 32, generator=drawn), torch.randn(2, 7, 24, generator=drawn)

    def out() -> tuple[torch.Tensor, torch.Tensor]:
        given = x.clone().requires_grad_()
        result = block(given, encoder_hidden_states=told)
        result.square().mean().backward()
        return result.detach(), given.grad  # type: ignore[return-value]

    plain = out()
    swaps = compiled(block)
    with swapped(swaps):
        torch.testing.assert_close(out(), plain, rtol=1e-4, atol=1e-6)
    assert len(swaps) == 1
    assert "forward" not in vars(block)
    torch.compiler.reset()


@pytest.mark.slow
@pytest.mark.usefixtures("here")
def test_a_run_with_compiled_blocks_has_the_same_losses(
    tiny_models: dict[str, Path], pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    losses = []
    for value in ("false", "true"):
        changes = ("training.steps=3", "training.log_every=1", "training.packed_weights=false",
                   "preview.every=1", "preview.num=1", "preview.steps=1", "adapter.rank=2",
                   "optimizer.warmup_steps=0", f"training.compile={value}")  # fmt: skip
        given = [Setting("data.instance_dir", pictures, "test"),
                 Setting("model.name", str(tiny_models["sd1"]), "test")]  # fmt: skip
        done = run(build("lora", [*given, *map(parse_set, changes)]), tell=lambda line: None)
        lines = (done.folder / "metrics.jsonl").read_text().splitlines()
        losses.append([(json.loads(line)["loss"], json.loads(line)["grad_norm"]) for line in lines])
    assert len(losses[1]) == 3
    for plain, fast in zip(*losses, strict=True):
        assert fast == pytest.approx(plain, rel=1e-3)
    torch.compiler.reset()
