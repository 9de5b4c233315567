"""What is refused on this machine, and that a model is plain outside of the steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import nn

from finetune.adapters import Full, LoRA
from finetune.backbones import Backbone
from finetune.backbones.precision import best_device
from finetune.config import FullSection, LoRASection, OptimizerSection, TrainingSection
from finetune.errors import ConfigError
from finetune.training import check_trainable
from finetune.training.speed import fastest_attention, in_steps
from tests.adapters.test_lora import fill

on_cpu = pytest.mark.skipif(best_device().type != "cpu", reason="for machines without a GPU")


@on_cpu
@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"attention": "xformers"}, "The attention xformers needs an NVIDIA GPU"),
        ({"attention": "flash", "precision": "bf16"}, "The attention flash needs an NVIDIA GPU"),
        ({"tf32": True, "precision": "fp32"}, "TF32 needs an NVIDIA GPU"),
        ({"compile": True}, r"(?s)compiled with their layers or packed.*packed_weights=false"),
    ],
)
def test_what_cannot_work_here_is_refused(changes: dict[str, Any], told: str) -> None:
    check_trainable(TrainingSection(attention="sdpa", precision="fp32"), OptimizerSection())
    with pytest.raises(ConfigError, match=told):
        check_trainable(TrainingSection(**changes), OptimizerSection())


@on_cpu
@pytest.mark.filterwarnings("ignore")  # those of PyTorch about its own compiler
def test_a_machine_that_cannot_compile_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Really without a compiler, and without what an earlier one has left.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (str(tmp_path / "none"),))
    torch.compiler.reset()
    training = TrainingSection(compile=True, packed_weights=False)
    with pytest.raises(ConfigError, match=r"(?s)PyTorch cannot compile.*a C\+\+ compiler"):
        check_trainable(training, OptimizerSection())
    torch.compiler.reset()


@on_cpu
def test_on_a_cpu_attention_is_pytorchs_own(backbone: Backbone) -> None:
    assert fastest_attention(backbone.unet, 8, 2, torch.float32) == ("sdpa", None)
    assert fastest_attention(backbone.unet, 8, 2, torch.bfloat16) == ("products", None)


@on_cpu
@pytest.mark.parametrize("kind", [LoRA, Full])
def test_products_add_no_error_to_that_of_bf16(backbone: Backbone, kind: type[LoRA | Full]) -> None:
    section: Any = LoRASection(rank=4) if kind is LoRA else FullSection()
    adapter: LoRA | Full = kind(backbone, section)
    if isinstance(adapter, LoRA):
        fill(adapter)

    def gradients(attention: str, dtype: torch.dtype) -> torch.Tensor:
        backbone.to("cpu", dtype)
        noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        conditioning = backbone.conditioning(["a cat", "a red dog"])
        mixed = torch.autocast("cpu", dtype, enabled=dtype != torch.float32)
        adapter.zero_grad()
        with in_steps(adapter, TrainingSection(attention=attention))(), mixed:
            adapter(noisy, torch.tensor([10, 700]), conditioning).float().square().mean().backward()
        return torch.cat([p.grad.flatten() for p in adapter.trained().values() if p.grad is not None])

    exact = gradients("sdpa", torch.float32)
    plain, fast = (gradients(name, torch.bfloat16) for name in ("sdpa", "products"))
    assert not torch.equal(plain, fast)
    assert (fast - exact).norm() < 1.1 * (plain - exact).norm()


def test_all_is_undone_after_a_step(backbone: Backbone) -> None:
    adapter = LoRA(backbone, LoRASection(rank=2))

    def state() -> list[Any]:
        blocks = [m for m in adapter.modules() if isinstance(m, BasicTransformerBlock)]
        own: list[nn.Module] = [part for part in blocks if "forward" in vars(part)]
        flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        return [own, dict(backbone.unet.attn_processors), flags]

    before = state()
    inside = in_steps(adapter, TrainingSection(compile=True, tf32=True, attention="flash", precision="fp32"))
    for _ in range(2):
        assert state() == before
        with inside():
            during = state()
            assert all(new != old for new, old in zip(during, before, strict=True))
            assert {type(p).__name__ for p in during[1].values()} == {"FlashProcessor"}
    assert state() == before
