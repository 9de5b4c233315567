"""How LoRA files change a model's weights, by plain diffusers and PEFT, and plain linear algebra on that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from finetune.backbones import Backbone
from finetune.formats import apply_lora, read_lora

Changes = dict[str, Tensor]


def by_diffusers(model: Path, file: Path, weight: float = 1.0) -> Changes:
    """What plain diffusers adds to each weight when it fuses a file into a model."""
    pipeline: Any = DiffusionPipeline.from_pretrained(model, local_files_only=True)
    return _changed(pipeline, lambda: _fuse(pipeline, file, weight))


def by_peft(backbone: Backbone, file: Path, weight: float = 1.0) -> Changes:
    """What PEFT's layers add to each weight when they are merged; also for LoHa and LoKr."""
    restore: list[Callable[[], None]] = []
    weights = read_lora(file, backbone)
    found = _changed(
        backbone.pipeline(), lambda: restore.append(apply_lora(backbone, weights, weight).merge())
    )
    restore[0]()
    return found


def _fuse(pipeline: Any, file: Path, weight: float) -> None:
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    pipeline.fuse_lora(lora_scale=weight)
    pipeline.unload_lora_weights()


@torch.no_grad()
def _changed(pipeline: Any, change: Callable[[], None]) -> Changes:
    parts = {
        name: part
        for name in ("unet", "text_encoder", "text_encoder_2")
        if (part := getattr(pipeline, name, None)) is not None
    }

    def state() -> Changes:
        return {
            f"{part}.{name}": tensor.clone()
            for part, module in parts.items()
            for name, tensor in module.state_dict().items()
        }

    before = state()
    change()
    after = state()
    assert before.keys() == after.keys()
    return {name: after[name] - before[name] for name in before if not torch.equal(after[name], before[name])}


def best(change: Tensor, rank: int) -> Tensor:
    """The nearest matrix of a rank (Eckart and Young 1936), by torch's own decomposition."""
    left, values, right = torch.linalg.svd(change.double().flatten(1), full_matrices=False)
    product = left[:, :rank] @ torch.diag(values[:rank]) @ right[:rank]
    return product.view(change.shape).float()


def assert_equal(found: Changes, expected: Changes, tolerance: float = 1e-5) -> None:
    """The same weights change, by the same amount: to `tolerance` of the largest entry."""
    assert found.keys() == expected.keys(), found.keys() ^ expected.keys()
    for name, change in expected.items():
        worst = (found[name] - change).abs().max().item()
        assert worst <= tolerance * max(1.0, change.abs().max().item()), (name, worst)
