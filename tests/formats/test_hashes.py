"""Hashes in the metadata, against files that the safetensors library writes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from finetune.formats import write_tensors

SS = {"ss_network_module": "networks.lora", "ss_tag_frequency": '{"é": 1}'}
REST = {"modelspec.sai_model_spec": "1.0.0", "finetune.step": "9", "sshs_model_hash": "of another file"}


@pytest.mark.parametrize("size", [10, 400_000])
def test_the_hashes_of_a_lora(size: int, tmp_path: Path) -> None:
    """By the rules: of what is behind the header, and of a file that has only `ss_*` metadata."""
    tensors = {"b": torch.arange(size).float(), "a": torch.ones(3)}
    write_tensors(tmp_path / "x.safetensors", tensors, {**SS, **REST})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        told = file.metadata()
    save_file(tensors, tmp_path / "plain.safetensors", metadata=SS)
    plain = (tmp_path / "plain.safetensors").read_bytes()
    data = hashlib.sha256(plain[8 + int.from_bytes(plain[:8], "little") :]).hexdigest()
    assert told["modelspec.hash_sha256"] == f"0x{data}" and told["sshs_model_hash"] == data
    window = plain[0x100000 : 0x100000 + 0x10000]
    assert bool(window) == (size > 100_000)
    assert told["sshs_legacy_hash"] == hashlib.sha256(window).hexdigest()[:8]
    assert torch.equal(load_file(tmp_path / "x.safetensors")["b"], tensors["b"])


def test_other_files_have_none(tmp_path: Path) -> None:
    write_tensors(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {"format": "pt"})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
