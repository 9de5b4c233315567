"""The README's commands work as printed.

Installing is left to `make`, which also runs these tests; every other line of an `sh` block
runs in a shell, in a new folder with only what the commands need, and then the Python block runs.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
INSTALLS = ("python3 -m venv", "pip install")


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    """The lines of all `sh` blocks except those that install."""
    lines = [line for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith(INSTALLS)]


def environment(folder: Path) -> dict[str, str]:
    """Environment with `finetune` on the path: the installed command, else the package under test."""
    scripts = folder / "bin"
    scripts.mkdir()
    (scripts / "finetune").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m finetune "$@"\n')
    (scripts / "finetune").chmod(0o755)
    path = os.pathsep.join([str(Path(sys.executable).parent), str(scripts), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}


def test_the_install_block_installs_this_package() -> None:
    lines = blocks("sh")[0].splitlines()
    assert lines == ["python3 -m venv .venv && . .venv/bin/activate", "pip install -c constraints.txt ."]
    assert (ROOT / "constraints.txt").is_file()


def test_make_demo_runs_the_same_training() -> None:
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    done = subprocess.run(["make", "--dry-run", "demo"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert next(line for line in commands() if line.startswith("finetune lora")) in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    not (ROOT / "finetune" / "models" / "storybook").is_dir(), reason="the bundled model is missing"
)
def test_the_commands_run_as_printed(tmp_path: Path) -> None:
    work = tmp_path / "work"
    shutil.copytree(ROOT / "datasets", work / "datasets")
    variables = environment(tmp_path)
    assert commands()
    runs: list[tuple[str, list[str]]] = [(line, ["sh", "-c", line]) for line in commands()]
    runs += [(block, [sys.executable, "-c", block]) for block in blocks("python")]
    for printed, command in runs:
        done = subprocess.run(command, cwd=work, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{printed}\n{done.stdout}{done.stderr}"
    found = {str(path.relative_to(work)) for path in work.rglob("*") if path.is_file()}
    stem = "samples/a-photo-of-mycat-wearing-a-red-hat-on-snow"
    assert found >= {
        "runs/mycat-lora/mycat-lora.safetensors",
        "runs/mycat-lora/pytorch_lora_weights.safetensors",
        "samples/grid.png",
        "mycat.png",
        *(f"{stem}-{seed}.png" for seed in range(4)),
    }
    with Image.open(work / "mycat.png") as picture:
        assert picture.size == (64, 64)
