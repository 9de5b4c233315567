"""Prompts from a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from finetune.cli import main
from finetune.cli.prompt_file import read_prompts
from finetune.errors import ConfigError


def test_lines_are_prompts_with_settings_of_their_own(tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    file.write_text(
        "\ufeff# heading\na cat\n\n  a dog, on snow --n ugly, bad --w 64 --h 96 --D 7 --s 9 --l 2.5\n"
        "a--b --h 64\n",
        encoding="utf-8",
    )
    cat, dog, other = read_prompts(file)
    assert (cat.prompt, cat.settings) == ("a cat", ())
    assert dog.prompt == "a dog, on snow"
    assert {s.key: s.value for s in dog.settings} == {
        "sampling.negative": "ugly, bad",
        "sampling.size": "64x96",
        "sampling.seed": "7",
        "sampling.steps": "9",
        "sampling.guidance": "2.5",
    }
    assert all("line 4" in s.origin for s in dog.settings)
    assert other.prompt == "a--b" and other.settings[0].value == "64x64"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "no prompt in this file"),
        (b"# a\n\n", "no prompt in this file"),
        (b"a --q 3\nb\nc --s 1 --s 2\n--n x\n", "Line 1 has --q. Line 3 has --s. Line 4 has no prompt."),
        (b"\xff\xfe\x00", "not UTF-8"),
        (None, "No such file"),
    ],
)
def test_faults_are_told_with_their_lines(text: bytes | None, told: str, tmp_path: Path) -> None:
    file = tmp_path / "p.txt"
    if text is not None:
        file.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        read_prompts(file)
    assert told in caught.value.what and str(file) in str(caught.value)


@pytest.mark.parametrize("family", ["sd1"])
def test_a_line_is_sampled_as_it_would_be_alone(tiny_folder: Path, here: Path) -> None:
    Path("p.txt").write_text("a dog --d 5 --s 3\na cat\n")
    model = ["--model", str(tiny_folder), "--size", "32", "--steps", "2"]
    assert main(["sample", "a bird", "--prompts", "p.txt", *model, "--output-dir", "all"]) == 0
    assert main(["sample", "a dog", *model[:4], "--steps", "3", "--seed", "5", "--output-dir", "one"]) == 0
    made = {path.name for path in Path("all").glob("*.png")}
    assert made == {"a-bird-0.png", "a-cat-0.png", "a-dog-5.png", "grid.png"}
    with Image.open("all/a-dog-5.png") as ours, Image.open("one/a-dog-5.png") as alone:
        assert ours.tobytes() == alone.tobytes()
        assert json.loads(ours.text["finetune"])["samples"][0]["steps"] == 3  # type: ignore[attr-defined]


def test_a_wrong_value_is_told_with_its_line(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("p.txt").write_text("a cat\na dog --s many\n")
    assert main(["sample", "--prompts", "p.txt", "--model", "nowhere"]) == 2
    assert "p.txt, line 2: --s" in capsys.readouterr().err
