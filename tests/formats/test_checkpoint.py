"""A whole model in one file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from finetune.backbones import Backbone
from finetune.backbones.original import original_state
from finetune.formats import read_tensors, write_checkpoint


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_checkpoint_holds_every_weight_and_how_it_was_made(
    dtype: torch.dtype, loaded: dict[str, Backbone], tmp_path: Path
) -> None:
    backbone, file, metadata = loaded["sd1"], tmp_path / "x.safetensors", {"finetune.step": "3"}
    write_checkpoint(file, backbone, metadata, dtype)
    tensors, told = read_tensors(file)
    assert told == metadata
    known = original_state(backbone)
    assert tensors.keys() == known.keys()
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    assert all(torch.equal(tensor, known[name].made().to(dtype)) for name, tensor in tensors.items())
