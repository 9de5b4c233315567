"""Whether evaluation during training finds the best step: `python -m storybook.alarm RUN --out FILE`.

RUN is a run of a LoRA of the subject that is much too long and has kept its checkpoints
(`training.keep_checkpoints`). Each is judged twice: as the run itself judges it (`evaluate.every`), and by
the oracle, which knows the world: the mean of the shares of pictures that show the subject, the scene and
the hat that were asked for, and of pictures of the class that are what the base model made of the same
seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from finetune.backbones.quiet import quiet
from finetune.config.evaluation import EvaluateSection
from finetune.evaluation.baseline import make
from finetune.evaluation.during import Start
from finetune.evaluation.judge import Judge
from finetune.evaluation.known import Known
from finetune.evaluation.plan import Plan
from finetune.evaluation.score import Evaluation, best_of, overfit_since
from finetune.recipes.load import Setting, build
from finetune.sampling import Sampler
from finetune.training import RunFolder
from finetune.training.run_folder import step_of
from storybook.evaluation import CLASS, changed, loaded, shows
from storybook.oracle import Oracle

ORACLE = EvaluateSection(every=1, num=4, steps=10, seed=5000)
"""Other seeds than the run's own, and more of them."""


class Truth:
    """What the oracle says of the steps of a run."""

    def __init__(self, base: Sampler, judge: Judge, prompt: str) -> None:
        """Reads the base model's pictures of the class."""
        self.oracle, self.judge = Oracle.load(), judge
        self.plan = Plan.of(ORACLE, prompt, CLASS)
        before = make(base, judge, self.plan.prompts(CLASS), self.plan.seeds, ORACLE)
        self.before = self.oracle.read(before.images)

    def __call__(self, sampler: Sampler) -> dict[str, float]:
        """The shares, and their mean."""
        plan = self.plan
        readings, of_class = (
            self.oracle.read(make(sampler, self.judge, plan.prompts(text), plan.seeds, ORACLE).images)
            for text in (plan.prompt, CLASS)
        )
        right = {
            group: [shows(readings[n], texts[plan.asked[n].place]) for n in plan.of_group(group)]
            for group, texts in plan.contexts.items()
        }
        shares = {
            "subject": float(np.mean([reading.is_subject for reading in readings])),
            **{group: float(np.mean(found)) for group, found in right.items()},
            "class kept": 1 - changed(self.before, of_class),
        }
        return shares | {"oracle": float(np.mean(list(shares.values())))}


def main(arguments: Sequence[str] | None = None) -> int:
    """Judges each checkpoint, one JSON line each, and says what was found."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="run folder of a LoRA of the subject")
    parser.add_argument("--data", type=Path, default=Path("datasets/mycat"), help="what it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; those there are not made again")
    options = parser.parse_args(arguments)
    with quiet():
        base = Sampler.load("storybook")
    settings = EvaluateSection(every=1)
    judge = Judge(base.backbone, settings.seed)
    recipe = build("lora", [Setting("data.instance_dir", str(options.data), "--data")])
    training = Known.read(recipe.scan(), base.backbone)
    plan = Plan.of(settings, training.captions[0], CLASS)
    start, truth = Start.of(base, judge, plan, settings, training, None), Truth(base, judge, plan.prompt)
    text = options.out.read_text(encoding="utf-8") if options.out.exists() else ""
    lines = {line["step"]: line for line in map(json.loads, text.splitlines())}
    for checkpoint in RunFolder(options.run).checkpoints():
        step = step_of(checkpoint)
        if step not in lines:
            sampler = loaded(checkpoint, 1.0)
            seen = start.look(sampler, Judge(sampler.backbone, settings.seed), judge)
            lines[step] = {"step": step, **seen, **truth(sampler)}
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(lines[step]) + "\n")
            print(json.dumps(lines[step]), flush=True)
    return _told([lines[step] for step in sorted(lines)])


def _told(lines: Sequence[dict[str, float]]) -> int:
    """Says when the alarm came; 1 if the named step is not within 5 points of the best."""
    found = [Evaluation(int(line["step"]), line["score"]) for line in lines]
    alarms = [(found[n].step, overfit_since(found[: n + 1])) for n in range(len(found))]
    first = next(((step, since) for step, since in alarms if since is not None), None)
    if first is None:
        print("No overfitting was seen.")
        return 1
    oracle = {int(line["step"]): line["oracle"] for line in lines}
    named, top = best_of(found).step, max(oracle, key=lambda step: oracle[step])
    print(
        f"At step {first[0]}: overfitting since step {first[1]}. Best step by score: {named}, of which the "
        f"oracle says {oracle[named]:.1%}; best step by the oracle: {top}, {oracle[top]:.1%}; "
        f"the last: {oracle[max(oracle)]:.1%}."
    )
    return int(max(oracle[top] - oracle[step] for step in (named, first[1] or named)) > 0.05)


if __name__ == "__main__":
    sys.exit(main())
