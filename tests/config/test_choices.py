"""Parts that are imported when a setting names them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from finetune.config.choices import imported


def test_no_code_is_fetched_because_a_library_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As bitsandbytes does it: `kernels` may be installed, and is there again afterwards."""
    (tmp_path / "kernels.py").write_text("def get_kernel(name): return name\n")
    (tmp_path / "greedy.py").write_text(
        "try:\n    from kernels import get_kernel\n    got = get_kernel('code from the Hub')\n"
        "except ImportError:\n    got = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "kernels", raising=False)
    assert imported("greedy:got") is None
    import kernels  # type: ignore[import-not-found]

    assert kernels.get_kernel("x") == "x"
    monkeypatch.delitem(sys.modules, "greedy")
    assert imported("greedy:got") is None and sys.modules["kernels"] is kernels
    monkeypatch.delitem(sys.modules, "kernels")
