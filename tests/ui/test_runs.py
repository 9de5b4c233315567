"""Runs are processes of their own; what the page shows is in their folders."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune.errors import UserError
from finetune.ui import form
from finetune.ui.processes import Started, resume, said, start, starting, stop
from finetune.ui.roots import Roots
from finetune.ui.sampling import Wanted, done, export_command, new_folder, sample_command, sources
from finetune.ui.view import fingerprint, run_html
from finetune.watching.seen import look

CHECKPOINT = "runs/mine/checkpoints/step-000002"


def until(true: Callable[[], bool], folder: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, said(folder)
        time.sleep(0.1)


@pytest.mark.slow
def test_a_run_is_started_stopped_and_resumed(roots: Roots, tiny_models: dict[str, Path]) -> None:
    text = form.changed(
        form.fresh("lora", "mycat"),
        {"model.name": str(tiny_models["sd1"]), "adapter.rank": "2", "training.steps": "100000",
         "training.log_every": "1", "preview.every": "0"},
    )  # fmt: skip
    folder = start(text, roots)
    try:
        assert folder == roots.folders[0] / "runs" / "mycat-lora"
        assert [run.folder for run in starting(roots)] == [folder]
        assert "starting" in run_html(folder)
        assert Started(folder).process() is not None
        until((folder / "metrics.jsonl").exists, folder)
        until(lambda: "Time left" in run_html(folder), folder)
        assert roots.runs() == [folder] and starting(roots) == []
        assert look(folder).state == "running"
        with pytest.raises(UserError, match="running"):
            resume(folder, roots)
        before = fingerprint(folder)
        stop(folder, roots)
        until(lambda: look(folder).state == "interrupted", folder)
        reached = look(folder).step
        assert fingerprint(folder) != before and list((folder / "checkpoints").iterdir()) and reached > 0
        until(lambda: Started(folder).process() is None, folder)
        resume(folder, roots)
        until(lambda: look(folder).step > reached and look(folder).state == "running", folder)
    finally:
        stop(folder, roots)
        until(lambda: Started(folder).process() is None, folder)
    assert "--resume" in said(folder) and starting(roots) == []


def test_nothing_starts_with_a_wrong_recipe(roots: Roots) -> None:
    with pytest.raises(UserError, match="whole number"):
        start(form.changed(form.fresh("lora", "mycat"), {"training.steps": "x"}), roots)
    with pytest.raises(UserError, match="outside"):
        start(form.fresh("lora", "/"), roots)
    with pytest.raises(UserError, match="No process"):
        stop(Path("mycat"), roots)
    assert not (roots.folders[0] / "runs").exists()


@pytest.mark.slow
def test_pictures_are_made_by_the_command(roots: Roots, own: Path) -> None:
    found = dict(sources(roots))
    assert found["mine (lora)"] == "runs/mine" and found["mine, step 2"] == CHECKPOINT
    folder = new_folder(roots)
    flags = (("--steps", "1"), ("--output-dir", roots.shown(folder)))
    wanted = Wanted("mycat", "runs/mine", 0.5, flags=flags, grids=("sampling.guidance=1,2",))
    command = sample_command(wanted, roots)
    assert command[command.index("--lora") + 1] == "runs/mine:0.5" and export_command(wanted, roots) is None
    assert list(done(command, roots)) and list(folder.glob("*.png"))
    with pytest.raises(UserError, match="at least 1"):
        list(done(["sample", "--steps", "0", "mycat"], roots))


def test_sources_outside_of_the_roots_are_refused(roots: Roots, own: Path) -> None:
    for source in ("..", "/etc/passwd", "runs/../../x.safetensors"):
        with pytest.raises(UserError, match="outside"):
            sample_command(Wanted("mycat", source), roots)
    command, made = export_command(Wanted("mycat", CHECKPOINT), roots) or (
        [],
        Path(),
    )
    assert command[:4] == ["export", CHECKPOINT, "--to", "kohya"]
    assert made.is_relative_to(roots.folders[0] / "samples")
    # The file that is made does not name the folder of its model, which the run does.
    sampled = sample_command(Wanted("mycat", CHECKPOINT), roots, made)
    assert sampled[sampled.index("--model") + 1] == look(own).recipe["model"]["name"]
    assert sampled[sampled.index("--lora") + 1] == roots.shown(made)


def test_a_prompt_is_text_on_the_page_and_no_flag_in_a_command(roots: Roots, own: Path) -> None:
    page = run_html(own)
    assert "a &lt;cat&gt; &amp; a" in page and "<cat>" not in page
    assert page.count("data:image/jpeg") == 4  # two steps of two prompts
    command = sample_command(Wanted("--output-dir=/etc"), roots)
    assert command[-2:] == ["--", "--output-dir=/etc"]
