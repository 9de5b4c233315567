"""Embeddings as they are given to the sampler."""

from __future__ import annotations

from pathlib import Path

from finetune.sampling.specs import parse_embedding


def test_path_and_word(tmp_path: Path) -> None:
    file = tmp_path / "easy.safetensors"
    file.write_bytes(b"")
    odd = tmp_path / "a:b.safetensors"
    odd.write_bytes(b"")
    assert parse_embedding(str(file)) == (file, None)
    assert parse_embedding(f"{file}:<easy>") == (file, "<easy>")
    assert parse_embedding(odd) == parse_embedding(str(odd)) == (odd, None)
    assert parse_embedding("nowhere:<easy>") == (Path("nowhere:<easy>"), None)  # reading it will say so
    assert parse_embedding((file, "<easy>")) == (file, "<easy>")
