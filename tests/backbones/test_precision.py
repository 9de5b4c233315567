"""The precision that `auto` means."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from finetune.backbones.precision import dtype_on


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_bf16_is_taken_only_where_a_gpu_computes_in_it(
    native: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def supported(including_emulation: bool = True) -> bool:  # as PyTorch answers on a T4
        return native or including_emulation

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", supported)
    assert dtype_on("auto", torch.device("cuda")) == dtype
    assert dtype_on("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize(
    ("found", "large", "dtype"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, True, torch.bfloat16),
        ({"avx512_bf16": True}, True, torch.bfloat16),
        ({"avx512_bf16": True}, False, torch.float32),
        ({"amx_bf16": False, "avx512_bf16": False}, True, torch.float32),
        ({}, True, torch.float32),  # another kind of processor
    ],
)
def test_auto_is_bf16_on_a_cpu_that_computes_in_it_if_the_model_is_large(
    monkeypatch: pytest.MonkeyPatch, found: dict[str, bool], large: bool, dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    module = nn.Linear(20_000, 10_000 if large else 100, bias=False, device="meta")
    assert dtype_on("auto", torch.device("cpu"), module) == dtype
    assert dtype_on("fp32", torch.device("cpu"), module) == torch.float32
