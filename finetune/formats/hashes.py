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


class Hashes:
    """The hashes that belong to a file, computed while its tensors are written.

    Args:
        metadata: Text by name; hashes of another file among it are left out.
        header: Makes the beginning of the file, up to the tensors, with the metadata it is given.
    """

    def __init__(self, metadata: Mapping[str, str], header: Callable[[Mapping[str, str]], bytes]) -> None:
        self._known = {key: value for key, value in metadata.items() if key not in (SPEC, MODEL, LEGACY)}
        self._spec = "modelspec.sai_model_spec" in self._known
        self._kohya = "ss_network_module" in self._known
        self._all, self._window = hashlib.sha256(), hashlib.sha256()
        begin = header({key: value for key, value in self._known.items() if key.startswith("ss_")})
        self._place = len(begin)  # in the file with only `ss_*` metadata
        self._window.update(begin[_BEGIN : _BEGIN + _LENGTH])

    @property
    def wanted(self) -> bool:
        """Whether there are any."""
        return self._spec or self._kohya

    def update(self, block: memoryview) -> None:
        """Takes in the next bytes of the tensors."""
        if self.wanted:
            self._all.update(block)
            begin, end = (max(0, place - self._place) for place in (_BEGIN, _BEGIN + _LENGTH))
            self._window.update(block[begin:end])
            self._place += len(block)

    def metadata(self) -> dict[str, str]:
        """The file's metadata with its hashes; they are as long before all bytes are known as afterwards."""
        whole, window = self._all.hexdigest(), self._window.hexdigest()[:8]
        spec = {SPEC: f"0x{whole}"} if self._spec else {}
        return self._known | spec | ({MODEL: whole, LEGACY: window} if self._kohya else {})
