"""`finetune caption`, as a user types it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.files import partial_name
from tests.conftest import draw_pictures

Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture
def mycat(here: Path) -> Path:
    """Three pictures and a broken one, one of them in a folder of its own."""
    folder = draw_pictures(here)
    (folder / "more").mkdir()
    shutil.move(folder / "2.png", folder / "more" / "2.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_captions_are_written_where_there_are_none(
    mycat: Path, vision_models: dict[str, Path], capsys: Output
) -> None:
    (mycat / "0.txt").write_text("mine")
    before = contents(mycat)
    # What a killed process of this machine left (no process has the id 0).
    (mycat / partial_name(mycat / "1.txt").name.replace(f"-{os.getpid()}-", "-0-")).write_text("mycat, a")
    command = ["caption", "mycat", "--model", str(vision_models["blip"]), "--max-tokens", "4"]
    assert main([*command, "--prefix", "mycat"]) == 0
    out = capsys.readouterr().out
    after = contents(mycat)
    assert sorted(after.keys() - before.keys()) == ["1.txt", "more/2.txt"]
    assert before == {name: after[name] for name in before}
    assert after["more/2.txt"].startswith(b"mycat, ")
    for line in (
        "3 pictures without a caption; 1 with one.",
        "skipped broken.png: ",
        "2 captions cut after 4 tokens (--max-tokens): 1.txt, more/2.txt",
        f'Wrote 2 captions, such as mycat/1.txt: "{after["1.txt"].decode().strip()}".',
    ):
        assert line in out

    (mycat / "broken.png").unlink()
    assert main(["caption", "mycat", "--model", "not/looked-at"]) == 0
    assert "3 pictures in mycat, and none without a caption." in capsys.readouterr().out


def test_faults_leave_the_folder_as_it_was(
    mycat: Path, vision_models: dict[str, Path], tiny_models: dict[str, Path], capsys: Output
) -> None:
    before = contents(mycat)
    for model, words in (
        ("none", "There is no model 'none'"),
        (str(tiny_models["sd1"]), "a diffusers model"),
        (str(mycat), "no config.json"),
    ):
        assert main(["caption", "mycat", "--model", model]) == 2
        said = capsys.readouterr().err
        assert words in said and "fix:" in said
    assert main(["caption", "mycat", "--model", str(vision_models["blip"]), "--precision", "fp31"]) == 2
    assert "no precision named" in capsys.readouterr().err
    for picture in ("0.png", "1.png", "more/2.png"):
        (mycat / picture).write_bytes(b"")
        before[picture] = b""
    assert main(["caption", "mycat", "--model", str(vision_models["blip"])]) == 2
    assert "None of the pictures could be captioned" in capsys.readouterr().err
    assert contents(mycat) == before


def test_ctrl_c_leaves_what_is_written(mycat: Path, vision_models: dict[str, Path]) -> None:
    # The process sends itself the signal when the first caption is there, so that no timing is involved.
    code = (
        "import os, signal, sys\n"
        "from finetune.cli import main\n"
        "from finetune.captioning import Captioner\n"
        "describe = Captioner.__call__\n"
        "def describing(self, images):\n"
        "    if os.path.exists('mycat/0.txt'): os.kill(os.getpid(), signal.SIGINT)\n"
        "    return describe(self, images)\n"
        "Captioner.__call__ = describing\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = ["caption", "mycat", "--model", str(vision_models["blip"]), "--batch-size", "1"]
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 130, done.stderr
    assert done.stderr.endswith("Interrupted. 1 caption written; the same command writes the rest.\n")
    assert [name for name in contents(mycat) if name.endswith(".txt")] == ["0.txt"]
    assert not any(name.endswith(".partial") for name in contents(mycat))


def test_pictures_elsewhere_that_metadata_names_are_told_too(
    here: Path, mycat: Path, vision_models: dict[str, Path], capsys: Output
) -> None:
    (here / "set").mkdir()
    names = [str(mycat.resolve() / name) for name in ("0.png", "broken.png")]
    lines = [json.dumps({"file_name": name}) + "\n" for name in names]
    (here / "set" / "metadata.jsonl").write_text("".join(lines))
    assert main(["caption", "set", "--model", str(vision_models["blip"]), "--max-tokens", "4"]) == 0
    out = capsys.readouterr().out
    assert f"skipped {names[1]}: " in out
    assert (mycat / "0.txt").is_file()
