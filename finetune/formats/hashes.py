"""Hashes of a file's tensors that other programs look for in its metadata.

| key | what it is | from |
|---|---|---|
| `modelspec.hash_sha256` | SHA-256 of all tensor content, with `0x` | Stability's metadata standard 1.0.0 |
| `sshs_model_hash` | the same without `0x` | kohya's sd-scripts, for A1111's list of LoRAs |
| `sshs_legacy_hash` | 8 digits of that of 64 KiB, 1 MiB into a file with only `ss_*` metadata | the same |
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping

SPEC, MODEL, LEGACY = "modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash"
_BEGIN, _LENGTH = 0x100000, 0x10000


def with_hashes(
    metadata: Mapping[str, str], data: memoryview, header: Callable[[Mapping[str, str]], bytes]
) -> dict[str, str]:
    """The metadata of a file with the hashes that belong to it; those of another file are left out.

    Args:
        metadata: Text by name.
        data: The content of all tensors.
        header: Makes the beginning of the file, up to the tensors, with the metadata it is given.
    """
    known = {key: value for key, value in metadata.items() if key not in (SPEC, MODEL, LEGACY)}
    if "modelspec.sai_model_spec" in known:
        known[SPEC] = f"0x{hashlib.sha256(data).hexdigest()}"
    if "ss_network_module" in known:
        begin = header({key: value for key, value in known.items() if key.startswith("ss_")})
        start = _BEGIN - len(begin)
        window = begin[_BEGIN:] + bytes(data[max(0, start) : max(0, start + _LENGTH)])
        known[MODEL] = hashlib.sha256(data).hexdigest()
        known[LEGACY] = hashlib.sha256(window[:_LENGTH]).hexdigest()[:8]
    return known
