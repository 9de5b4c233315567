"""Processes are measured by the hook and stopped; here small ones that step an optimizer of PyTorch."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.hook import seconds_elsewhere
from benchmarks.measure import OUT, Program, Run, add_arguments, in_turn, of_steps, run, summary

BEGIN = """
import sys, torch
weight = torch.zeros(1, requires_grad=True)
one = torch.optim.SGD([weight], lr=1.0)
other = torch.optim.AdamW([weight], lr=1.0)
weight.grad = torch.ones(1)
"""


def script(folder: Path, text: str, *arguments: str) -> Program:
    """A program that has two optimizers, `one` and `other`, and then does what `text` says."""
    file = folder / "script.py"
    file.write_text(BEGIN + text, encoding="utf-8")
    return Program(Path(sys.executable), (str(file), *arguments), folder)


def test_figures_come_from_the_times_of_the_steps() -> None:
    lines = [
        {"time": 110.0, "memory": 3.0, "gpu": 0.5, "elsewhere": 40.0},
        {"time": 112.0, "memory": 4.0, "gpu": 0.5, "elsewhere": 41.0},
        {"time": 115.0, "memory": 4.5, "gpu": 0.75, "elsewhere": 42.5},
    ]
    expected = Run(steps=(2.0, 3.0), first=10.0, memory=4.5, gpu=0.75, elsewhere=0.5)
    assert of_steps(lines, 100.0) == expected


def test_a_summary_is_the_median_over_the_runs() -> None:
    runs = [
        Run(steps=(1.0, 9.0, 2.0), first=30.0, memory=5.0, elsewhere=0.0),
        Run(steps=(3.0, 3.0, 3.0), first=10.0, memory=7.0, elsewhere=0.6),
        Run(steps=(4.0, 4.0, 0.0), first=20.0, memory=6.0, elsewhere=0.0),
    ]
    found = summary(runs)
    assert (found.step, found.low, found.high) == (3.0, 2.0, 4.0)
    assert (found.first, found.memory) == (20.0, 6.0)
    assert found.elsewhere == pytest.approx(0.2)


def test_one_failure_fails_the_summary() -> None:
    assert summary([Run(steps=(1.0,)), Run(failure="no memory")]).failure == "no memory"


def test_a_process_ends_after_its_steps_and_its_folder_is_removed(tmp_path: Path) -> None:
    endless = """
print(sys.argv[1], flush=True)
open(sys.argv[1], "w").close()
while True:
    one.step()
"""
    log = tmp_path / "run.log"
    found = run(script(tmp_path, endless, OUT), 4, log)
    assert found.failure == ""
    assert len(found.steps) == 3
    assert found.first > sum(found.steps)  # to start Python and import PyTorch
    place = Path(log.read_text(encoding="utf-8").strip())
    assert place.name == "run"
    assert not place.parent.exists()


def test_an_optimizer_may_step_a_part_of_its_parameters_at_a_time(tmp_path: Path) -> None:
    text = """
parts = [torch.zeros(1, requires_grad=True) for _ in range(3)]
whole = torch.optim.SGD(parts, lr=1.0)
for _ in range(5):
    for part in parts:
        part.grad = torch.ones(1)
        whole.step()
        part.grad = None
"""
    assert len(run(script(tmp_path, text), 100, tmp_path / "run.log").steps) == 4


def test_many_optimizers_take_one_step_of_training(tmp_path: Path) -> None:
    text = "for _ in range(5):\n    one.step()\n    other.step()\n"
    assert len(run(script(tmp_path, text), 100, tmp_path / "run.log").steps) == 4


def test_memory_is_the_peak(tmp_path: Path) -> None:
    step = "one.step()\n" * 2
    alone = run(script(tmp_path, step), 2, tmp_path / "run.log")
    more = run(script(tmp_path, "torch.ones(2**28, dtype=torch.uint8)\n" + step), 2, tmp_path / "run.log")
    assert more.memory - alone.memory == pytest.approx(0.25, abs=0.05)


def test_a_process_that_fails_says_why(tmp_path: Path) -> None:
    text = "one.step()\nprint('5 %', file=sys.stderr)\nraise ValueError('too blue')"
    failure = run(script(tmp_path, text), 3, tmp_path / "run.log").failure
    assert failure == "exit code 1 after 1 steps: ValueError: too blue"


@pytest.mark.slow
def test_programs_alternate_and_what_failed_is_not_tried_again(tmp_path: Path) -> None:
    told: list[str] = []
    programs = {
        "good": script(tmp_path, "one.step()\n" * 3),
        "missing": Program(tmp_path / "no-python", ("x.py",), tmp_path),
        "also good": script(tmp_path, "one.step()\n" * 3),
    }
    found = in_turn(programs, 3, 2, tmp_path / "logs", 0, told.append)
    assert [line.partition(",")[0] for line in told] == ["good", "missing", "also good", "good", "also good"]
    assert [len(runs) for runs in found.values()] == [2, 1, 2]
    assert "no-python" in found["missing"][0].failure
    lines = (tmp_path / "logs" / "also-good-1.jsonl").read_text(encoding="utf-8").splitlines()
    assert [set(json.loads(line)) for line in lines] == [{"time", "memory", "gpu", "elsewhere"}] * 3


def test_too_few_steps_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser, repeats=3)
    assert parser.parse_args(["--steps", "2"]).steps == 2
    with pytest.raises(SystemExit):
        parser.parse_args(["--steps", "1"])
    assert "1 is too few; give 2 or more" in capsys.readouterr().err


def test_work_of_another_process_counts_as_elsewhere() -> None:
    before = seconds_elsewhere()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        while psutil.Process(other.pid).cpu_times().user < 0.3:
            pass
        assert seconds_elsewhere() - before > 0.25
        other.kill()
