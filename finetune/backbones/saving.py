"""Writes a backbone as a diffusers folder that both old and new versions of the libraries read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from finetune.backbones.backbone import Backbone
from finetune.backbones.finite import refuse_non_finite
from finetune.backbones.names import classic_text_name, numbered
from finetune.backbones.quiet import quiet


def save_folder(backbone: Backbone, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Writes all parts into `folder`, which then loads with diffusers' `from_pretrained`.

    transformers 5 writes text encoders and tokenizers in a newer layout; here the weights keep their
    classic names and the vocabulary its `vocab.json` and `merges.txt`, which every version reads.

    Args:
        backbone: The model; adapters must have been merged or detached.
        folder: The target, created if missing. Wrap in `whole_folder` for all or nothing.
        dtype: Precision of the written weights; unchanged if None.

    Raises:
        WeightsError: If a weight is not finite in this precision.
    """
    for tokenizer in backbone.tokenizers:
        # The last call's truncation and padding are not part of it, but would be written.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    with quiet():
        # Text-to-image pipelines of diffusers know nothing of a mask.
        kind = backbone.inpainting_class if backbone.inpaints else None
        backbone.pipeline(kind=kind).save_pretrained(folder)
    for name, module in backbone.module_roots().items() | {("vae", backbone.vae)}:
        text = name.startswith("text_encoder")
        file = folder / name / ("model.safetensors" if text else "diffusion_pytorch_model.safetensors")
        weights = {
            classic_text_name(module, key) if text else key: tensor.detach().cpu().to(dtype or tensor.dtype)
            for key, tensor in module.state_dict().items()
        }
        refuse_non_finite(weights, f"{name}/{file.name}")
        for shard in file.parent.glob("*.safetensors*"):
            shard.unlink()  # large models are written in shards, under the newer names
        save_file({k: v.contiguous() for k, v in weights.items()}, file, metadata={"format": "pt"})
    for file in folder.rglob("*.json"):
        forget_paths(file)
    names = numbered("tokenizer", len(backbone.tokenizers))
    for name, tokenizer in zip(names, backbone.tokenizers, strict=True):
        _save_vocabulary(tokenizer, folder / name)


_ABOUT_THE_WRITER = ("_name_or_path", "is_local", "local_files_only")


def forget_paths(file: Path) -> None:
    """Removes where the model was on the writer's machine: it is nobody else's business."""
    content = json.loads(file.read_text(encoding="utf-8"))
    if isinstance(content, dict) and any(key in content for key in _ABOUT_THE_WRITER):
        content = {key: value for key, value in content.items() if key not in _ABOUT_THE_WRITER}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _save_vocabulary(tokenizer: Any, folder: Path) -> None:
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    pairs = (m if isinstance(m, str) else " ".join(m) for m in model["merges"])
    (folder / "vocab.json").write_text(json.dumps(model["vocab"], ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n", encoding="utf-8")
