"""`--quiet` and `--json`: what a command says to scripts and programs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune.cli import main
from finetune.cli.style import as_json
from finetune.cli.terminal import progress
from tests.terminal import Terminal

Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("here")
SMALL = ["--steps", "2", "--rank", "2", "--batch-size", "1"]
CHANGES = ["preview.every=2", "preview.steps=1", "preview.num=1", "data.validation=0.4", "data.preserve=[]"]


def events(written: str) -> list[dict[str, Any]]:
    """The events on the lines of an output."""
    return [json.loads(line) for line in written.splitlines()]


def test_what_a_run_says_changes_none_of_its_bytes(
    here: Path, tiny_models: dict[str, Path], pictures: Path, capsys: Output
) -> None:
    sets = [flag for change in CHANGES for flag in ("--set", change)]
    run = ["lora", "--instance-dir", str(pictures), "--model", str(tiny_models["sd1"]), *SMALL, *sets]
    weights, said = [], []
    for style in ("--quiet", "--json"):
        assert main([style, *run, "--output-dir", "cat"]) == 0
        said.append(capsys.readouterr())
        weights.append(Path("cat/cat.safetensors").read_bytes())
        Path("cat").rename(f"cat-{len(said)}")
    assert weights[0] == weights[1]
    quiet, programs = said
    assert quiet.out == "cat\n" and quiet.err == ""
    assert programs.err == ""
    told = events(programs.out)
    assert {"event": "start", "folder": "cat", "step": 0, "steps": 2} in told
    steps = [event for event in told if event["event"] == "step"]
    assert [event["step"] for event in steps] == [1, 2]
    last = json.loads(Path("cat-2/metrics.jsonl").read_text().splitlines()[-1])
    assert last.items() <= steps[-1].items()
    assert steps[-1]["seconds_left"] == 0 and steps[0]["smoothed_loss"] == steps[0]["loss"]
    by_kind = {event["event"]: event for event in told}
    assert by_kind["checkpoint"]["path"] == "cat/checkpoints/step-000002"
    assert by_kind["preview"]["path"] == "cat/samples/step-000002.png"
    loss = json.loads(Path("cat-2/validation.jsonl").read_text())["validation_loss"]
    assert by_kind["validation"]["validation_loss"] == loss
    assert any("broken.png" in event["text"] for event in told if event["event"] == "warning")
    assert told[-1]["event"] == "end" and told[-1]["folder"] == "cat"
    assert {file["path"] for file in told[-1]["files"]} == {
        "cat/cat.safetensors",
        "cat/pytorch_lora_weights.safetensors",
    }
    page = (ROOT / "docs" / "terminal.md").read_text(encoding="utf-8")
    assert set(by_kind) <= set(re.findall(r"`(\w+)`", page))


ROOT = Path(__file__).parents[2]


def test_errors_are_json_for_programs(capsys: Output) -> None:
    assert main(["--json", "lora", "--instance-dir", "nowhere"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (error,) = events(said.err)
    assert error == {
        "event": "error",
        "kind": "DataError",
        "what": "There is no such folder.",
        "where": "nowhere",
        "fix": error["fix"],
        "exit_code": 2,
    }
    assert main(["lora", "--instance-dir", "nowhere"]) == 2  # the next command of this process
    text = capsys.readouterr().err
    assert text == f"Error: There is no such folder.\n  where: nowhere\n  fix:   {error['fix']}\n"


@pytest.mark.parametrize(
    "arguments", [["--json", "--bogus"], ["--json", "lroa"], ["--json", "--quiet", "lora"]]
)
def test_also_what_is_wrong_before_the_command(arguments: list[str], capsys: Output) -> None:
    assert main(arguments) == 2
    (error,) = events(capsys.readouterr().err)
    assert error["exit_code"] == 2 and error["what"] and error["fix"]


def test_a_fault_of_the_program_is_json_too(monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    def fails(*_: object) -> None:
        raise ZeroDivisionError("no way")

    monkeypatch.setattr("finetune.cli.train.build", fails)
    assert main(["--json", "lora"]) == 1
    (error,) = events(capsys.readouterr().err)
    assert (error["kind"], error["exit_code"]) == ("ZeroDivisionError", 1)
    assert "FINETUNE_DEBUG=1" in error["fix"]


@pytest.mark.parametrize("flag", ["--quiet", "--json"])
def test_the_flags_stand_before_the_command(flag: str, capsys: Output) -> None:
    assert main(["lora", flag]) == 2
    assert f"fix:   Give it before the command: finetune {flag} lora …" in capsys.readouterr().err


def test_a_command_with_json_of_its_own_takes_it_before_too(pictures: Path, capsys: Output) -> None:
    main(["check", str(pictures), "--model", "storybook", "--json"])
    behind = capsys.readouterr().out
    main(["--json", "check", str(pictures), "--model", "storybook"])
    assert capsys.readouterr().out == behind
    assert json.loads(behind)["pictures"]
    main(["--quiet", "check", str(pictures), "--model", "storybook"])
    assert "broken.png" in capsys.readouterr().out


def test_samples_are_told_to_scripts_and_programs(tiny_models: dict[str, Path], capsys: Output) -> None:
    sample = ["sample", "a cat", "--model", str(tiny_models["sd1"]), "--steps", "1", "--num", "2"]
    assert main(["--quiet", *sample, "--output-dir", "made"]) == 0
    written = capsys.readouterr().out.splitlines()
    assert sorted(map(str, Path("made").iterdir())) == sorted(written)
    assert main(["--json", *sample, "--output-dir", "more"]) == 0
    told = events(capsys.readouterr().out)
    assert [event["path"].replace("more", "made") for event in told[-1]["files"]] == written
    counted = [event for event in told if event["event"] == "progress"]
    assert counted[-1]["done"] == counted[-1]["total"]


def test_json_has_no_numbers_that_are_not_numbers() -> None:
    values = {"a": float("nan"), "b": [float("inf"), 1.5], "c": {"d": -float("inf")}, "e": Path("x")}
    assert json.loads(as_json(values)) == {"a": None, "b": [None, 1.5], "c": {"d": None}, "e": "x"}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_other_progress_fits_the_terminal(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", str(width))
    screen = Terminal(width)
    monkeypatch.setattr(sys, "stdout", screen.stream)
    with progress("Encoding pictures and captions") as report:
        report(0, 12_000)
        report(11_999, 12_000)
    assert screen.lines == []  # nothing of it stays
    longest = screen.longest
    screen.close()
    assert 50 < longest <= width
