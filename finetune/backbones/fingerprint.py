"""Content hashes of models, so that a cache is found by what it was made from (promise P4)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import nn

# What libraries write about themselves: it can change when the model does not.
_BOOKKEEPING = (
    "_diffusers_version",
    "_name_or_path",
    "_class_name",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "_use_default_values",  # what a config leaves out; its order differs between processes
)


def fingerprint(modules: Sequence[nn.Module], settings: Sequence[Mapping[str, Any] | str]) -> str:
    """SHA-256 over all weights (names, types, shapes, bytes) and settings, in hexadecimal.

    The device does not matter; the precision does, since the outputs differ with it.

    Args:
        modules: Models whose weights count.
        settings: Configurations and other data that shape the output.
    """
    digest = hashlib.sha256()
    tensors = [pair for module in modules for pair in sorted(module.state_dict().items())]
    for setting in settings:
        if isinstance(setting, Mapping):
            setting = {k: v for k, v in setting.items() if k not in _BOOKKEEPING}
            setting = json.dumps(setting, sort_keys=True, default=str)
        digest.update(f"{len(setting)}:{setting}".encode())
    # Hashing releases the GIL, so each core hashes at full speed (1.4 GB/s a core).
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for (name, tensor), content in zip(tensors, pool.map(_content, tensors), strict=True):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode() + content)
    return digest.hexdigest()


def tokenizer_settings(tokenizer: Any) -> list[Mapping[str, Any] | str]:
    """Everything that token ids depend on, as settings for `fingerprint`."""
    # Padding and truncation are whatever the last call asked for, not part of the tokenizer.
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    return [state | {"padding": None, "truncation": None}, str(tokenizer.pad_token_id)]


def _content(named: tuple[str, torch.Tensor]) -> bytes:
    data: Any = named[1].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return hashlib.sha256(memoryview(data)).digest()
