"""Writes a backbone as a diffusers folder that both old and new versions of the libraries read."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from transformers import PreTrainedModel

from finetune.backbones.backbone import Backbone
from finetune.backbones.names import classic_text_name, numbered
from finetune.backbones.planned import Changes, planned_state
from finetune.backbones.quiet import quiet
from finetune.backbones.stream import write_stream


def save_folder(
    backbone: Backbone, folder: Path, dtype: torch.dtype | None = None, changes: Changes | None = None
) -> None:
    """Writes all parts into `folder`, which then loads with diffusers' `from_pretrained`.

    The weights are cast and written one by one, so that they take no memory beside the model's own.
    transformers 5 writes text encoders and tokenizers in a newer layout; here the weights keep their
    classic names and the vocabulary its `vocab.json` and `merges.txt`, which every version reads.

    Args:
        backbone: The model; adapters must have been merged or detached.
        folder: The target, created if missing. Wrap in `whole_folder` for all or nothing.
        dtype: Precision of the written weights; unchanged if None.
        changes: What differs in the written model.

    Raises:
        WeightsError: If a weight is not finite in this precision.
    """
    for tokenizer in backbone.tokenizers:
        # The last call's truncation and padding are not part of it, but would be written.
        tokenizer.backend_tokenizer.no_padding()
        tokenizer.backend_tokenizer.no_truncation()
    # Text-to-image pipelines of diffusers know nothing of a mask.
    kind = backbone.inpainting_class if backbone.inpaints else None
    _save_configs(backbone.pipeline(kind=kind), folder, dtype)
    for name, module in backbone.module_roots().items() | {("vae", backbone.vae)}:
        text = name.startswith("text_encoder")
        file = folder / name / ("model.safetensors" if text else "diffusion_pytorch_model.safetensors")
        weights = {
            classic_text_name(module, key) if text else key: weight.cast(dtype)
            for key, weight in planned_state(name, module, changes).items()
        }
        write_stream(file, weights, {"format": "pt"}, f"{name}/{file.name}")
    for file in folder.rglob("*.json"):
        forget_paths(file)
    names = numbered("tokenizer", len(backbone.tokenizers))
    for name, tokenizer in zip(names, backbone.tokenizers, strict=True):
        _save_vocabulary(tokenizer, folder / name)


def _save_configs(pipeline: Any, folder: Path, dtype: torch.dtype | None) -> None:
    """What `pipeline.save_pretrained` writes, without the weights."""
    with quiet():
        pipeline.save_config(folder)
        for name, part in pipeline.components.items():
            if isinstance(part, PreTrainedModel):
                config = copy.deepcopy(part.config)
                config.dtype = str(dtype or part.dtype).removeprefix("torch.")
                config.architectures = [type(part).__name__]
                config.save_pretrained(folder / name)
            elif isinstance(part, ModelMixin):
                part.save_config(folder / name)
            elif part is not None:  # a tokenizer or the scheduler
                part.save_pretrained(folder / name)


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
