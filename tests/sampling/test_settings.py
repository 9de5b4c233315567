"""Sampling settings: what is read, and what is said of what cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import ConfigError
from finetune.sampling.settings import Choices, SamplingSection, sampling_section
from finetune.sampling.specs import parse_lora


@pytest.mark.parametrize(
    ("value", "size"),
    [
        (64, (64, 64)),
        ("64", (64, 64)),
        ("64x96", (64, 96)),
        ("64×96", (64, 96)),
        ((64, 96), (64, 96)),
        (None, None),
    ],
)
def test_size(value: Any, size: tuple[int, int] | None) -> None:
    assert sampling_section(size=value).size == size


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"scheduler": "eulr"}, "Did you mean `euler`"),
        ({"steps": 0}, "`steps` cannot be 0"),
        ({"guidance": float("nan")}, "`guidance` cannot be nan"),
        ({"seed": -1}, "`seed` cannot be -1"),
        ({"num": 0}, "`num` cannot be 0"),
        ({"size": 65}, "multiple of 8"),
        ({"size": "big"}, "`size` cannot be 'big'"),
        ({"stps": 3}, "no sampling setting named `stps`.*\n.*\n.*Did you mean `steps`"),
    ],
)
def test_faults_are_told(setting: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        sampling_section(**setting)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        sampling_section(steps=0, guidance=-1, scheduler="x")
    assert all(f"`{key}`" in str(caught.value) for key in ("steps", "guidance", "scheduler"))


def test_choices_are_the_sections_fields() -> None:
    assert set(Choices.__annotations__) == set(SamplingSection.model_fields) - {"seed"}


def test_lora_with_weight(tmp_path: Path) -> None:
    assert parse_lora("runs/mycat-lora:0.5") == (Path("runs/mycat-lora"), 0.5)
    assert parse_lora("runs/mycat-lora") == (Path("runs/mycat-lora"), 1.0)
    assert parse_lora(("a", -1)) == (Path("a"), -1.0)
    assert parse_lora("C:\\a.safetensors") == (Path("C:\\a.safetensors"), 1.0)
    odd = tmp_path / "a:2"
    odd.touch()
    assert parse_lora(str(odd)) == (odd, 1.0)
    with pytest.raises(ConfigError, match="not a finite number"):
        parse_lora("a:inf")


def test_settings_load_without_torch() -> None:
    code = "import sys, finetune.sampling.settings; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
