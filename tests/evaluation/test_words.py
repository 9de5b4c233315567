"""What is said of figures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from finetune.config.evaluation import EvaluationSection
from finetune.errors import ConfigError
from finetune.evaluation.baseline import Baseline, Made
from finetune.evaluation.drift import Compared
from finetune.evaluation.known import Known
from finetune.evaluation.measure import Report
from finetune.evaluation.plan import Plan, subject_prompt
from finetune.evaluation.subject import Nearest
from finetune.evaluation.words import verdict

SETTINGS = EvaluationSection(contexts={"hat": ["wearing a red hat", "wearing a blue hat"]})
NO_LATENTS = torch.zeros(0)
MADE = Made([], NO_LATENTS, NO_LATENTS)
KNOWN = Known(("1.png",), ("a photo of mycat",), NO_LATENTS, NO_LATENTS, ())
SAME = Compared((1.0,), (1.0,), 0.0)


def all_of(value: float) -> Tensor:
    return torch.full((6,), value)


def good() -> Report:
    plan = Plan.of(SETTINGS, "a photo of mycat", "a photo of a cat")
    baseline = Baseline(plan, SETTINGS, KNOWN, None, MADE, MADE, cast(Any, None), {"hat": 1.0})
    nowhere = Nearest(torch.zeros(6, dtype=torch.long), all_of(1.0))
    learned = replace(SAME, trained=(0.5,))
    return Report(
        baseline, MADE, MADE, all_of(1.0), all_of(0.0), {"hat": 1.0}, 0.0, SAME, SAME, learned, None, nowhere
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "learned."),
        ({"likeness": all_of(0.2)}, "not learned: train longer"),
        ({"likeness": all_of(0.7)}, "partly learned: train longer"),
        ({"shown": {"hat": 0.7}}, "learned; weakens hat: use an earlier checkpoint or a weight of 0.8."),
        ({"shown": {"hat": 0.3}}, "learned; ignores hat: "),
        ({"leak": all_of(0.9)}, '"a photo of a cat" shows the subject in 100% of pictures: use an earlier'),
        ({"class_drift": replace(SAME, changed=0.2)}, '"a photo of a cat" has drifted a little'),
        ({"class_drift": replace(SAME, changed=0.7)}, '"a photo of a cat" has drifted far'),
        (
            {"nearest": Nearest(torch.zeros(6, dtype=torch.long), all_of(0.1))},
            "copies training pictures in 100%",
        ),
    ],
)
def test_each_fault_is_said_with_what_to_do(changes: dict[str, Any], said: str) -> None:
    assert said in verdict(replace(good(), **changes))


def test_what_the_base_model_cannot_do_is_not_held_against_a_result() -> None:
    report = good()
    poor = replace(report.baseline, shown={"hat": 0.5})
    assert "base model itself" in verdict(replace(report, baseline=poor, shown={"hat": 0.1}))


def test_a_plan_asks_both_models_for_the_same_with_the_same_seeds() -> None:
    plan = Plan.of(SETTINGS, "a photo of mycat", "a photo of a dog", SETTINGS.unrelated)
    assert len(plan.asked) == 2 * SETTINGS.num and len(set(plan.seeds)) == len(plan.seeds)
    assert plan.prompts(plan.prompt)[1] == "a photo of mycat wearing a blue hat"
    assert plan.prompts(plan.class_prompt)[1] == "a photo of a dog wearing a blue hat"
    assert {text for text, _ in plan.unrelated} == {*SETTINGS.unrelated} - {"a photo of a dog"}
    assert Plan.of(SETTINGS, "a photo of mycat", None).class_prompt == "a photo"


def test_different_captions_need_a_prompt(tmp_path: Any) -> None:
    several = replace(KNOWN, captions=("a cat", "a dog"))
    with pytest.raises(ConfigError, match="different captions"):
        subject_prompt(SETTINGS, several.captions, tmp_path)
    assert subject_prompt(EvaluationSection(prompt="mycat"), several.captions, tmp_path) == "mycat"
    assert subject_prompt(SETTINGS, KNOWN.captions, tmp_path) == "a photo of mycat"
