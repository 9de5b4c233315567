"""What `--controlnet` is read as, and what is said where it cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune.cli.controlnet import parse_controlnet
from finetune.errors import ConfigError
from finetune.sampling import ControlSpec


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a folder and a picture, some of them with colons in their names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("net", "net:old", "C:\\net", "12:30"):
        (tmp_path / folder).mkdir()
    for picture in ("a.png", "C:\\a.png", "at 12:30.png", "one.safetensors"):
        (tmp_path / picture).touch()
    return tmp_path


@pytest.mark.parametrize("folder", ["net", "C:\\net", "12:30", "~/net", "one.safetensors"])
@pytest.mark.parametrize("picture", ["a.png", "C:\\a.png", "at 12:30.png", "~/a.png", "0.5"])
@pytest.mark.parametrize(
    ("tail", "numbers"),
    [("", (1, 0, 1)), (":0.8", (0.8, 0, 1)), (":-1", (-1, 0, 1)), (":1:0.25-0.5", (1, 0.25, 0.5))],
)
def test_every_form(folder: str, picture: str, tail: str, numbers: tuple[float, float, float]) -> None:
    Path("0.5").touch()  # a picture may be called like a number
    for kind in ("none", "edges"):
        made = "" if kind == "none" else f":{kind}"
        spec, image = parse_controlnet(f"{folder}:{picture}{tail}{made}")
        assert spec == ControlSpec(Path(folder), *numbers, kind)
        assert image == Path(picture)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("net", "The control picture is missing."),
        ("net:", "The control picture is missing."),
        ("C:\\net", "The control picture is missing."),
        ("net:0.8", "The control picture is missing."),
        ("net:1:0-0.5", "The control picture is missing."),
        ("net:b.png", "There is no picture 'b.png'."),
        ("net:b.png:0.8", "There is no picture 'b.png'."),
        ("C:\\net:C:\\b.png:1:0-0.5", "There is no picture 'C:\\\\b.png'."),
        ("net:old:b.png", "There is no picture 'b.png'."),
        ("net:net", "There is no picture 'net'."),
        ("none:a.png", "There is no such ControlNet."),
        (":a.png", "There is no such ControlNet."),
        ("x" * 20_000, "There is no such ControlNet."),
        ("net:a.png:", "'' is not SCALE"),
        ("net:a.png:strong", "'strong' is not SCALE"),
        ("net:a.png:0-0.5", "'0-0.5' is not SCALE"),
        ("net:a.png:1:0.5", "'1:0.5' is not SCALE[:START-END][:KIND]."),
        ("net:a.png:1:0-0.5-1", "'1:0-0.5-1' is not SCALE"),
        ("net:a.png:1:0-1:2", "'1:0-1:2' is not SCALE"),
        ("net:a.png:edgy", "'edgy' is not SCALE[:START-END][:KIND]."),
        ("net:a.png:edges:1", "'edges:1' is not SCALE"),
        ("net:edges", "The control picture is missing."),
    ],
    ids=lambda text: text[:30],
)
def test_what_cannot_be_read_is_told_with_the_form(text: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_controlnet(text)
    assert what in caught.value.what
    assert (caught.value.where or "").startswith(f"--controlnet {text[:50]}")
    assert "Write --controlnet PATH:PICTURE[:SCALE[:START-END]][:KIND], e.g." in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("numbers", "what"),
    [
        ("nan", "not a finite number"),
        ("1:0.5-0.2", "cannot act from 0.5 to 0.2"),
        ("1:0.5-0.5", "cannot act from 0.5 to 0.5"),
        ("1:0-2", "cannot act from 0 to 2"),
    ],
)
def test_numbers_out_of_range(numbers: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        parse_controlnet(f"net:a.png:{numbers}")
    assert caught.value.where == "net"


def test_what_can_be_read_in_two_ways_is_not_guessed(here: Path) -> None:
    (here / "a.png:0.5").touch()
    with pytest.raises(ConfigError) as caught:
        parse_controlnet("net:a.png:0.5")
    assert caught.value.what == "This could mean the picture 'a.png' for 'net' or 'a.png:0.5' for 'net'."
    # Here only one of the two leaves numbers that can be meant.
    assert parse_controlnet("net:a.png:0.5:2")[1] == Path("a.png:0.5")
