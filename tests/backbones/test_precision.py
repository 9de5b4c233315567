"""The precision that `auto` means."""

from __future__ import annotations

import pytest
import torch

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
