"""Content hashes of models, so that a cache is found by what it was made from (promise P4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

# What a library writes about itself: it changes without the model changing.
_BOOKKEEPING = (
    "_diffusers_version",
    "_name_or_path",
    "_class_name",
    "transformers_version",
    "dtype",
    "torch_dtype",
)


def fingerprint(modules: Sequence[nn.Module], settings: Sequence[Mapping[str, Any] | str]) -> str:
    """SHA-256 over all weights (names, types, shapes, bytes) and settings, in hexadecimal.

    The device plays no part; the precision does, since the outputs differ with it.

    Args:
        modules: Models whose weights count.
        settings: Configurations and other data that shape the output.
    """
    digest = hashlib.sha256()
    for setting in settings:
        if isinstance(setting, Mapping):
            setting = {k: v for k, v in setting.items() if k not in _BOOKKEEPING}
            setting = json.dumps(setting, sort_keys=True, default=str)
        digest.update(f"{len(setting)}:{setting}".encode())
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(memoryview(data.numpy()))
    return digest.hexdigest()
