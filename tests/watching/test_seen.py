"""What a run folder shows of its run, and what can be removed of it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.errors import ConfigError
from finetune.recipes.load import load_recipe
from finetune.recipes.place import owned
from finetune.recipes.run import run
from finetune.watching.cleaning import cleanup, remove
from finetune.watching.seen import look, runs_in

Output = pytest.CaptureFixture[str]
DIFFUSERS = "pytorch_lora_weights.safetensors"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_finished_run(own: Path) -> None:
    seen = look(own)
    assert (seen.kind, seen.state, seen.step, seen.steps) == ("lora", "finished", 4, 4)
    assert seen.size == sum(path.stat().st_size for path in own.rglob("*") if path.is_file())
    assert seen.checkpoints == sum(p.stat().st_size for p in (own / "checkpoints").rglob("*") if p.is_file())
    assert seen.loss is not None and 0 < seen.loss < 10
    assert (own / "summary.txt").read_text().startswith("3 pictures from ")


def test_the_states_of_a_run(own: Path) -> None:
    (own / DIFFUSERS).unlink()
    assert look(own).state == "interrupted"
    (own / "failure.txt").write_text("The loss became NaN.\n")
    assert look(own).state == "failed"
    with owned(own):
        assert look(own).state == "running"
    (own / ".lock").write_text("process 1 on a machine that is gone\n")  # of a killed process
    assert look(own).state == "failed"
    shutil.rmtree(own / "checkpoints" / "step-000004")
    (own / "metrics.jsonl").write_text('{"step": 3, "loss": 0.5}\n{"step": 4, "lo')
    assert (look(own).step, look(own).loss) == (3, 0.5)


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run folder"):
        look(tmp_path)
    (tmp_path / "recipe.yaml").write_text("- 1\n")
    with pytest.raises(ConfigError, match="not the recipe of a run"):
        look(tmp_path)
    with pytest.raises(ConfigError, match="no such folder"):
        runs_in(tmp_path / "none")


def test_a_run_that_fails_says_why_and_forgets_it_when_it_goes_on(own: Path) -> None:
    (own / DIFFUSERS).unlink()
    shutil.rmtree(own / "checkpoints" / "step-000004")
    (own / "samples" / "step-000004.png").unlink()
    samples = (own / "samples").rename(own / "elsewhere")
    (own / "samples").symlink_to(own / "nowhere" / "at" / "all")  # the next preview cannot be written
    recipe = load_recipe(own / "recipe.yaml", f"output.dir={own}", "training.checkpoint_every=2")
    with pytest.raises(FileExistsError):
        run(recipe, resume=True, tell=lambda line: None)
    assert look(own).state == "failed"
    assert (own / "failure.txt").read_text().strip()
    (own / "samples").unlink()
    samples.rename(own / "samples")
    run(recipe, resume=True, tell=lambda line: None)
    assert look(own).state == "finished" and not (own / "failure.txt").exists()


def test_cleaning_removes_checkpoints_and_leftovers_alone(own: Path) -> None:
    left = own / ".results.safetensors.abcdef-1-1-00000000.partial"
    left.write_bytes(b"12345")
    before = files(own)
    found = cleanup(own)
    assert found.size == look(own).checkpoints + 5
    assert files(own) == before  # looking changes nothing
    remove(found)
    gone = {name for name in before if name.startswith("checkpoints/")} | {left.name}
    assert files(own) == before - gone
    assert look(own).state == "finished"
    assert cleanup(own).places == ()


def test_a_run_that_is_in_use_is_not_cleaned(own: Path) -> None:
    found = cleanup(own)
    with owned(own), pytest.raises(ConfigError, match="training now"):
        remove(found)
    assert look(own).checkpoints


def test_the_list_of_runs(own: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.chdir(own.parents[1])
    shutil.copytree(own, "runs/other")
    Path("runs/other", DIFFUSERS).unlink()
    Path("runs/other/failure.txt").write_text("It broke.\n  fix:   Mend it.\n")
    Path("runs/odd").mkdir()
    Path("runs/odd/recipe.yaml").write_text("kind: [\n")
    assert main(["runs"]) == 0
    out = capsys.readouterr().out
    assert "runs/mine" in out and "finished" in out and "4/4" in out
    assert "runs/other failed: It broke.\n" in out
    assert "runs/odd is left out: this is not valid YAML" in out
    assert main(["runs", "runs", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {Path(r["run"]).name: r["state"] for r in told["runs"]} == {"mine": "finished", "other": "failed"}
    assert main(["runs", "runs/mine"]) == 0
    assert main(["runs", "nowhere"]) == 2
    shutil.rmtree("runs")
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert capsys.readouterr().out == "There are no runs in runs.\n"


def test_cleaning_from_the_command_line(own: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.chdir(own.parents[1])
    shutil.copytree(own, "runs/unfinished")
    Path("runs/unfinished", DIFFUSERS).unlink()
    before = files(own)
    assert main(["clean", "runs"]) == 2  # nobody to ask, and nothing was done
    said = capsys.readouterr()
    assert "--yes" in said.err and files(own) == before
    assert "is not finished and cannot be resumed from step 4" in said.out
    with owned(own):
        assert main(["clean", "runs/mine", "--yes"]) == 2
        assert main(["clean", "runs", "--yes"]) == 0
        assert "runs/mine is training now, and is left as it is." in capsys.readouterr().out
    assert look(own).checkpoints and not look(Path("runs/unfinished")).checkpoints
    assert main(["clean", "runs/mine", "runs", "--yes"]) == 0
    assert not look(own).checkpoints and (own / DIFFUSERS).is_file()
    assert main(["clean", "runs", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out
    assert main(["clean", "."]) == 2


def test_looking_at_runs_needs_no_torch(own: Path) -> None:
    code = f"import sys; from finetune.cli import main; main(['runs', {str(own)!r}])"
    code += "; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.endswith("False\n")
