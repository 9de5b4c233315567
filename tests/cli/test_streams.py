"""What the terminal is, or is not, never ends a command; what goes to it is harmless."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.cli.streams import LONGEST, printable
from tests.conftest import draw_pictures

SMALL = "--steps 1 --rank 2 --batch-size 1 --set preview.every=0 --set data.preserve=[]"


def finetune(arguments: str, folder: Path, redirect: str = "", **environment: str) -> tuple[int, str, str]:
    """Exit code and output of `finetune` in a shell that redirects its streams."""
    command = f"{shlex.quote(sys.executable)} -m finetune {arguments} {redirect}"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], cwd=folder, env={**env, **environment},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout, ended.stderr


ROOT = Path(__file__).parents[2]


def test_a_run_goes_on_without_its_terminal(tmp_path: Path) -> None:
    # Streams that are full, have no reader or close later: `python -m tests.campaigns surroundings`.
    draw_pictures(tmp_path)
    code, _, err = finetune(f"lora --instance-dir mycat {SMALL}", tmp_path, ">&- 2>&-")
    assert code == 0, err
    assert (tmp_path / "runs/mycat-lora/mycat-lora.safetensors").is_file()


def test_a_locale_without_letters_takes_any_prompt(tmp_path: Path) -> None:
    code, out, err = finetune(
        "sample 'a 🐱 on a sofa' --steps 1 --output-dir 'für 🐱'", tmp_path,
        LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0", PYTHONIOENCODING="ascii",
    )  # fmt: skip
    assert code == 0, err
    assert list((tmp_path / "für 🐱").glob("a-on-a-sofa-*.png"))
    assert r"\U0001f431" in out  # shown as far as this terminal can


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_while_loading_is_told(tmp_path: Path, number: signal.Signals) -> None:
    child = started(tmp_path)
    loading(child)
    child.send_signal(number)
    _, err = child.communicate()
    assert child.returncode == 130
    assert "Interrupted" in err
    assert "Traceback" not in err


def test_nohup_keeps_its_promise(tmp_path: Path) -> None:
    child = started(tmp_path, lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    loading(child)
    child.send_signal(signal.SIGHUP)
    child.communicate()
    assert child.returncode == 0


def loading(child: subprocess.Popen[str]) -> None:
    """Waits until the command says which model it is about to load."""
    assert child.stdout is not None
    assert child.stdout.readline().startswith("Model: ")


def started(folder: Path, before: Callable[[], object] | None = None) -> subprocess.Popen[str]:
    draw_pictures(folder)
    return subprocess.Popen(
        [sys.executable, "-m", "finetune", "lora", "--instance-dir", "mycat", *shlex.split(SMALL)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        preexec_fn=before,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_control_characters_are_shown_and_long_lines_cut() -> None:
    assert printable("a\x1b[31mred\x07\n\x9b\u202e\ud800é🐱") == r"a\x1b[31mred\x07\n\x9b\u202e\ud800é🐱"
    assert printable("a\u200f\u202b\u2069\x85b") == r"a\u200f\u202b\u2069\x85b"
    cut = printable("x" * 10_000_000)
    assert len(cut) < LONGEST + 50
    assert cut.endswith("(10,000,000 characters)")


def test_names_and_captions_cannot_write_to_the_terminal(
    here: Path, tiny_models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = draw_pictures(here)
    (folder / "0.png").rename(folder / "0\x1b]0;title\x07.png")
    (folder / "0\x1b]0;title\x07.txt").write_text("a \x1b[2Jcat")
    (folder / "1.txt").write_text("x" * 10_000_000)
    small = [*shlex.split(SMALL), "--model", str(tiny_models["sd1"])]
    assert main(["lora", "--instance-dir", "mycat", *small]) == 0
    out, err = capsys.readouterr()
    assert r"\x1b[2Jcat" in out
    assert "\x1b" not in out + err
    assert "skipped 1.png: its caption 1.txt is longer than 10,000 characters" in out
    assert len(out) < 5000


@pytest.mark.parametrize(
    "command", [f"lora --instance-dir mycat {SMALL} --output-dir", "sample cat --steps 1 --output-dir"]
)
def test_a_place_that_cannot_be_written_is_told_at_once(
    here: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    draw_pictures(here)
    (here / "afile").touch()
    assert main([*shlex.split(command), "afile/sub"]) == 2
    said = capsys.readouterr()
    assert "where:" in said.err
    assert "fix:" in said.err
    assert "Training" not in said.out
    assert "Model:" not in said.out  # before the model is loaded
