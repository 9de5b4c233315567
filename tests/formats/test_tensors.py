"""safetensors files as they are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from finetune.errors import WeightsError
from finetune.formats import write_tensors


@pytest.mark.parametrize(
    ("bad", "precision"),
    [
        (torch.tensor([1.0, torch.nan]), "float32"),
        (torch.tensor([1.0, -torch.inf]), "float32"),
        (torch.tensor([1.0, 70000.0]).half(), "float16"),
    ],
)
def test_what_is_not_finite_is_not_written(bad: torch.Tensor, precision: str, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    with pytest.raises(WeightsError, match=f"b holds NaN or infinity in {precision}") as caught:
        write_tensors(file, {"a": torch.ones(2), "b": bad}, {})
    assert caught.value.where == str(file) and caught.value.fix
    assert not list(tmp_path.iterdir())
    write_tensors(file, {"a": torch.ones(2), "mark": torch.zeros(0)}, {})
    assert set(load_file(file)) == {"a", "mark"}
