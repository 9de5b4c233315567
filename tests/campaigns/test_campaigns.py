"""A few attacks of each campaign; `make campaign` runs many."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.campaigns.__main__ import CAMPAIGNS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_few_attacks_do_no_harm(name: str, tmp_path: Path) -> None:
    # In its own process, since the attacks fork it.
    ended = subprocess.run(
        [sys.executable, "-m", "tests.campaigns", name, "--small"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
