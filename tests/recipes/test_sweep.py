"""Sweeps: which runs they are, and what becomes of them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml

from finetune.cli import main
from finetune.errors import ConfigError
from finetune.recipes.load import load_recipe
from finetune.recipes.run import run
from finetune.recipes.sweep import Choice, Trial, parse_choices, parted, trials
from finetune.recipes.swept import claimed_folder
from finetune.training.curves import read_curves, smoothed
from finetune.training.watcher import Now, Watcher
from tests.conftest import draw_pictures

Output = pytest.CaptureFixture[str]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("optimizer.lr=1e-4,3e-4", ["1e-4", "3e-4"]),
        ("adapter.rank=4, 16", [4, 16]),
        ("data.preserve=[a cat, a dog]", [["a cat", "a dog"]]),
        ("data.preserve=[],[a, b],[[c, d]]", [[], ["a", "b"], [["c", "d"]]]),
        ("optimizer.layer_lrs={mid: 1, up: 2},{}", [{"mid": 1, "up": 2}, {}]),
        ("data.instance_prompt=\"a cat, sitting\",'b, c'", ["a cat, sitting", "b, c"]),
        ("data.instance_prompt=the cat's hat, the dog's", ["the cat's hat", "the dog's"]),
        ("data.instance_prompt=a=b,c", ["a=b", "c"]),
        ("training.ema=true", [True]),
        ("data.class_prompt=", [None]),
    ],
)
def test_values_are_separated_by_commas_outside_of_brackets_and_quotes(
    text: str, values: list[object]
) -> None:
    found = parse_choices(text)
    assert [choice.setting.value for choice in found] == values
    assert {choice.key for choice in found} == {text.partition("=")[0]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["adapter.rank=4,8,4"], "The value 4 is given twice"),
        (["adapter.rank=4,,8"], "A value is missing"),
        (["adapter.rank=4,8", "adapter.rank=2"], "adapter.rank is given twice"),
        (["adapter.rank"], "sets nothing"),
        (["output.dir=a,b"], "a folder of its own"),
        (["adapter.rank=4"], "Nothing varies"),
        ([], "Nothing varies"),
    ],
)
def test_what_is_no_sweep_is_refused(changes: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parted(changes)


def grid(*lengths: int) -> list[list[Choice]]:
    """Settings a, b, … with so many values each."""
    return [
        [parse_choices(f"x.{chr(97 + place)}={value}")[0] for value in range(length)]
        for place, length in enumerate(lengths)
    ]


def values(trial: Trial) -> tuple[object, ...]:
    """The values of a trial."""
    return tuple(choice.setting.value for choice in trial.choices)


def test_a_grid_is_all_combinations_in_order() -> None:
    found = trials(grid(2, 3, 2), None, 0)
    assert [values(trial) for trial in found] == list(itertools.product(range(2), range(3), range(2)))
    assert [trial.number for trial in found] == list(range(1, 13))
    assert found[1].name == "2-a-0-b-0-c-1"
    assert found[1].words == "x.a=0, x.b=0, x.c=1"


def test_a_random_share_is_drawn_fairly_without_repetition_from_the_seed() -> None:
    drawn = [tuple(values(trial) for trial in trials(grid(3, 2), 2, seed)) for seed in range(900)]
    assert drawn == [tuple(values(trial) for trial in trials(grid(3, 2), 2, seed)) for seed in range(900)]
    counted = Counter(drawn)
    assert set(counted) == set(itertools.combinations(itertools.product(range(3), range(2)), 2))
    # 15 pairs, each 60 times on average with a deviation of 7.5: five of them.
    assert all(abs(number - 60) < 38 for number in counted.values())
    assert len(trials(grid(100, 100, 100), 7, 1)) == 7


@pytest.mark.parametrize(
    ("lengths", "number", "words"), [((2, 3), 7, "only 6"), ((100, 3), None, "300 runs")]
)
def test_too_many_runs_are_refused(lengths: tuple[int, ...], number: int | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        trials(grid(*lengths), number, 0)


def test_names_of_folders_fit_every_system() -> None:
    (choice,) = parse_choices('data.instance_prompt="a/b: <c>, é" ')
    assert Trial(3, (choice,)).name == "3-instance_prompt-a-b-c-é"
    long = Trial(1, tuple(parse_choices(f"a.b=[{'x' * 300}]")))
    assert len(long.name.encode()) <= 100


def test_the_loss_is_the_moving_average_of_the_logged_ones(tmp_path: Path) -> None:
    assert smoothed([]) == []
    assert smoothed([(1, 3.0)]) == [(1, 3.0)]
    found = smoothed([(1, 1.0), (2, 2.0), (3, 4.0)])
    assert found[-1] == (3, pytest.approx((0.81 * 1 + 0.9 * 2 + 4) / (0.81 + 0.9 + 1)))
    file = tmp_path / "metrics.jsonl"
    assert read_curves(file) == {}
    file.write_text(
        '{"step": 1, "loss": 2}\n{"step": 2}\n[1]\n{"step": 3, "loss": null}\n{"step": 4, "loss": 0.5}\n{"st'
    )
    assert read_curves(file) == {"loss": [(1, 2.0), (4, 0.5)]}


def test_a_folder_is_one_sweeps_alone(tmp_path: Path) -> None:
    what = {"kind": "lora", "varied": {"a.b": ["1", "2"]}}
    with claimed_folder(tmp_path / "new", False, what):
        (tmp_path / "new" / "sweep.yaml").write_text(yaml.safe_dump({**what, "runs": []}))
        with (
            pytest.raises(ConfigError, match="Another sweep is using"),
            claimed_folder(tmp_path / "new", True, what),
        ):
            pass
    with claimed_folder(tmp_path / "new", True, what):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").touch()
    for folder, resume, identity, words in (
        ("new", False, what, "a sweep in this folder already"),
        ("new", True, {**what, "kind": "full"}, "other kind"),
        ("other", True, what, "not a sweep"),
    ):
        with pytest.raises(ConfigError, match=words), claimed_folder(tmp_path / folder, resume, identity):
            pass
    with pytest.raises(ZeroDivisionError), claimed_folder(tmp_path / "none", False, what):
        raise ZeroDivisionError
    assert not (tmp_path / "none").exists()


class Stopper(Watcher):
    """Presses Ctrl-C after the first step."""

    def advance(self, now: Now) -> None:
        if now.step == 1:
            os.kill(os.getpid(), signal.SIGINT)


def test_a_stopped_sweep_goes_on_to_the_same_bytes_and_failures_stop_nothing(
    here: Path, tiny_models: dict[str, Path], capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw_pictures(here)
    recipe = {
        "kind": "lora",
        "model": {"name": str(tiny_models["sd1"])},
        "adapter": {"rank": 2},
        "data": {"instance_dir": "elsewhere", "preserve": []},
        "training": {"steps": 3, "batch_size": 1, "log_every": 1},
        "preview": {"every": 0},
        "output": {"dir": "unused"},
    }
    Path("cat.yaml").write_text(yaml.safe_dump(recipe))
    sweep = ["sweep", "cat.yaml", "--set", "data.instance_dir=nowhere,mycat", "--set", "optimizer.lr=1e-3"]
    with monkeypatch.context() as patched:
        patched.setattr("finetune.cli.watching.Progress", Stopper)
        assert main(sweep) == 130
    said = capsys.readouterr()
    assert "Run 1 failed: There is no such folder. where: nowhere" in said.out
    assert "Stopped after step 1" in said.err
    folder = Path("runs/nowhere-lora-sweep")
    assert [row["state"] for row in yaml.safe_load((folder / "sweep.yaml").read_text())["runs"]] == [
        "failed",
        "unfinished",
    ]
    assert main([*sweep, "--output-dir", str(folder)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["--json", *sweep, "--resume"]) == 1
    *_, end = map(json.loads, capsys.readouterr().out.splitlines())
    assert [row["state"] for row in end["runs"]] == ["failed", "finished"]
    logged = read_curves(folder / "2-instance_dir-mycat/metrics.jsonl")["loss"]
    assert end["runs"][1]["loss"] == smoothed(logged)[-1][1]

    name = "2-instance_dir-mycat"
    alone = load_recipe(
        "cat.yaml", "data.instance_dir=mycat", "optimizer.lr=1e-3", f"output.dir=alone/{name}"
    )
    run(alone, tell=lambda line: None, watcher=Watcher())
    for file in (f"{name}.safetensors", "pytorch_lora_weights.safetensors"):
        assert (folder / name / file).read_bytes() == (Path("alone") / name / file).read_bytes()

    assert not (folder / "sweep.html").exists()  # there is one run to show

    done = (folder / name / f"{name}.safetensors").stat().st_mtime_ns
    assert main([*sweep, "--resume"]) == 1
    told = capsys.readouterr().out
    assert "Run 2 of 2: data.instance_dir=mycat is finished.\n" in told
    heads, first, second = told.splitlines()[-4:-1]
    assert heads.split() == ["run", "data.instance_dir", "loss", "state"]
    assert first.split() == ["1-instance_dir-nowhere", "nowhere", "–", "failed"]
    assert second.split()[0] == name
    assert (folder / name / f"{name}.safetensors").stat().st_mtime_ns == done

    shutil.copytree("mycat", "nowhere")  # what the other one lacked
    assert main([*sweep, "--resume"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Wrote {folder}/sweep.yaml and {folder}/sweep.html."
    page = (folder / "sweep.html").read_text(encoding="utf-8")
    assert name in page and "1-instance_dir-nowhere" in page


def test_faults_are_told_before_the_first_run(here: Path, capsys: Output) -> None:
    Path("cat.yaml").write_text("kind: lora\ndata: {instance_dir: mycat}\n")
    assert main(["sweep", "cat.yaml", "--set", "adapter.rank=4,minus"]) == 2
    said = capsys.readouterr()
    assert "where: --set adapter.rank=minus" in said.err
    assert said.out == ""
    assert not Path("runs").exists()
