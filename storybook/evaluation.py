"""Whether `finetune eval` measures what it says: `python -m storybook.evaluation --runs RUN... --out FILE`.

LoRAs of the subject from different steps, at different weights, are measured by `finetune.evaluation`,
which knows the base model and the training pictures, and by the oracle, which knows the world. Each figure
should put the LoRAs in the order in which the oracle puts them: Spearman's rank correlation says how well.

The runs must have kept the checkpoints of `STEPS` (`training.keep_checkpoints`).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from finetune.backbones.quiet import quiet
from finetune.config import ModelSection
from finetune.config.evaluation import EvaluationSection
from finetune.evaluation.baseline import Baseline, encode, measure_base
from finetune.evaluation.judge import Judge
from finetune.evaluation.known import Known
from finetune.evaluation.measure import Report, measure
from finetune.evaluation.plan import Plan
from finetune.evaluation.prompt import classify
from finetune.evaluation.subject import nearest
from finetune.recipes.load import Setting, build
from finetune.recipes.rewrite import find_saved, written_again
from finetune.sampling import Sampler
from finetune.sampling.settings import Choices
from storybook.captions import SCENE_PHRASES
from storybook.drawing import draw
from storybook.gates import STREAM
from storybook.oracle import Oracle, Reading
from storybook.pictures import SIZE
from storybook.world import SCENES, SUBJECT, Spec

STEPS, WEIGHTED, WEIGHTS = (50, 100, 200, 400, 800), (50, 200), (0.4, 2.0, 0.2)
STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
HOW = Choices(steps=10, guidance=4.0)
CLASS, HELD = "a photo of a cat", 8

PAIRS = (
    ("subject.likeness", "subject"),
    ("prompt.scene.trained", "scene"),
    ("prompt.hat.trained", "hat"),
    ("class.likeness", "subject in class"),
    ("class.share", "subject in class"),
    ("class.frechet", "class changed"),
    ("class.changed", "class changed"),
    ("unrelated.changed", "others changed"),
    ("gain on training pictures", "subject"),
    ("gain on held-out pictures", "subject"),
)
"""Figures of `finetune eval`, and what the oracle says that they should rise with."""


def ranks(values: Sequence[float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Ranks from 0, equal values sharing the mean of theirs."""
    found = np.asarray(values, dtype=np.float64)
    below = (found[:, None] > found).sum(1)
    return np.asarray(below + ((found[:, None] == found).sum(1) - 1) / 2)


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN where all values of one are equal."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return float("nan")
    return float(np.corrcoef(ranks(one), ranks(other))[0, 1])


class Truth:
    """What the oracle says of the pictures that were judged, and of the base model's with the same seeds."""

    def __init__(self, baseline: Baseline) -> None:
        """Reads the base model's pictures."""
        self.oracle, self.baseline = Oracle.load(), baseline
        self.of_class = self.oracle.read(baseline.of_class.images)
        self.others = self.oracle.read(baseline.others.images)

    def __call__(self, report: Report, sampler: Sampler) -> dict[str, float]:
        """The shares that show the subject, scene and hat, and that have changed."""
        readings, of_class = (self.oracle.read(made.images) for made in (report.subject, report.of_class))
        prompts, seeds = zip(*self.baseline.plan.unrelated, strict=True)
        others = self.oracle.read([one.image for one in sampler(prompts, seed=seeds, **HOW)])
        plan = self.baseline.plan
        right = {
            group: [shows(readings[n], texts[plan.asked[n].place]) for n in plan.of_group(group)]
            for group, texts in plan.contexts.items()
        }
        return {
            "subject": float(np.mean([reading.is_subject for reading in readings])),
            **{group: float(np.mean(found)) for group, found in right.items()},
            "subject in class": float(np.mean([reading.is_subject for reading in of_class])),
            "class changed": changed(self.of_class, of_class),
            "others changed": changed(self.others, others),
        }


def changed(before: Sequence[Reading], now: Sequence[Reading]) -> float:
    """Share of samples, of one seed each, that show another animal, color, hat or scene."""
    seen = [[(r.animal, r.colour, r.hat, r.scene) for r in readings] for readings in (before, now)]
    return float(np.mean([one != other for one, other in zip(*seen, strict=True)]))


def conditions(runs: Sequence[Path]) -> Iterator[tuple[Path, float]]:
    """Those checkpoints of `STEPS` that there are, and those of `WEIGHTED` at other weights."""
    for weight in (1.0, *WEIGHTS):
        for step in STEPS if weight == 1 else WEIGHTED:
            for place in (run / "checkpoints" / f"step-{step:06}" for run in runs):
                if place.is_dir():
                    yield place, weight


def figures(report: Report) -> dict[str, float]:
    """The figures of `finetune eval` by dotted names."""
    found = dict(_flat(report.plain()))
    assert report.on_held is not None
    gains = {
        "gain on training pictures": report.on_training.gain,
        "gain on held-out pictures": report.on_held.gain,
    }
    return found | gains


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        elif isinstance(value, float):
            yield before + name, value


def words(sampler: Sampler, judge: Judge, plan: Plan) -> None:
    """Prints how often classifier and oracle agree whether pictures show the words of their prompts.

    Half of the pictures are made without the words, as by a model that ignores them. More and more of these
    among the others must lower the share that the classifier finds.
    """
    oracle, seeds = Oracle.load(), plan.seeds
    prompts = [*plan.prompts(plan.prompt), *[plan.prompt] * len(seeds)]
    images = [sample.image for sample in sampler(prompts, seed=seeds * 2, **HOW)]
    readings, latents = oracle.read(images), encode(judge, images)
    for group, texts in plan.contexts.items():
        own = plan.of_group(group)
        places = [*own, *(place + len(seeds) for place in own)]
        asked = [plan.asked[place].place for place in own] * 2
        found = classify(judge, latents[places], [f"{plan.class_prompt} {text}" for text in texts])
        says = [int(place) == right for place, right in zip(found, asked, strict=True)]
        sees = [shows(readings[place], texts[right]) for place, right in zip(places, asked, strict=True)]
        mixed = [
            [float(np.mean(each[count : len(own) + count])) for count in range(len(own) + 1)]
            for each in (says, sees)
        ]
        same = float(np.mean([one == other for one, other in zip(says, sees, strict=True)]))
        print(
            f"{f'prompt.{group}':28} {f'{group} as asked':18} {spearman(*mixed):6.2f}   "
            f"agree on {same:.0%} of {len(places)} pictures; with the words {mixed[0][0]:.0%} against the "
            f"oracle's {mixed[1][0]:.0%}, without {mixed[0][-1]:.0%} against {mixed[1][-1]:.0%}",
            flush=True,
        )


def shows(reading: Reading, text: str) -> bool:
    """Whether a picture shows the words of a context."""
    return text in (*SCENE_PHRASES[reading.scene], f"wearing a {reading.hat} hat")


def copies(base: Sampler, judge: Judge, baseline: Baseline) -> tuple[list[float], list[float]]:
    """Training pictures repainted by the base model, more and more: their strengths and nearest ratios."""
    strengths, found = [], []
    known = baseline.training
    for strength in STRENGTHS:
        how = Choices(**{**HOW, "strength": strength})
        samples = base([CLASS] * len(known.images), init=list(known.images), seed=9000, **how)
        latents = encode(judge, [sample.image for sample in samples])
        near = nearest(latents, known.latents, known.mirrored, baseline.of_class.latents)
        print(
            f"repainted at strength {strength}: ratios",
            [round(r, 3) for r in near.ratio.tolist()],
            f"copies {float(near.copies.float().mean()):.0%}",
            flush=True,
        )
        strengths += [strength] * len(samples)
        found += near.ratio.tolist()
    return strengths, found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures each LoRA, one JSON line each, and prints the correlations."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", nargs="+", type=Path, required=True, help="run folders of LoRAs of the subject"
    )
    parser.add_argument("--data", type=Path, default=Path("datasets/mycat"), help="what they were trained on")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines; those there are not made again")
    options = parser.parse_args(arguments)
    with quiet():
        base = Sampler.load("storybook")
    judge = Judge(base.backbone)
    settings = EvaluationSection()
    recipe = build("lora", [Setting("data.instance_dir", str(options.data), "--data")])
    training = Known.read(recipe.scan(), base.backbone)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng([STREAM, 12])
        for number in range(HELD):
            scene = SCENES[number % len(SCENES)]
            spec = Spec(**{**SUBJECT.__dict__, "scene": scene})
            draw(spec, rng, SIZE).save(Path(folder) / f"{number}.png")
        prompt = Setting("data.instance_prompt", training.captions[0], "")
        fresh = build("lora", [Setting("data.instance_dir", folder, ""), prompt])
        held = Known.read(fresh.scan(), base.backbone)
    plan = Plan.of(settings, training.captions[0], CLASS, settings.unrelated)
    baseline = measure_base(base, judge, plan, settings, training, held)
    truth = Truth(baseline)
    lines = (
        [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    )
    done = {(line["checkpoint"], line["weight"]) for line in lines}
    places = list(conditions(options.runs))
    for checkpoint, weight in places:
        if (str(checkpoint), weight) in done:
            continue
        sampler = loaded(checkpoint, weight)
        report = measure(baseline, judge, sampler, Judge(sampler.backbone))
        line = {"checkpoint": str(checkpoint), "weight": weight}
        line |= {"measured": figures(report), "oracle": truth(report, sampler)}
        lines.append(line)
        with options.out.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)
    for name, other in PAIRS:
        one, two = [line["measured"][name] for line in lines], [line["oracle"][other] for line in lines]
        print(f"{name:28} {other:18} {spearman(one, two):6.2f}   oracle {min(two):.2f} to {max(two):.2f}")
    words(loaded(*places[0]), judge, plan)
    print(f"{'memorization.nearest':28} {'strength':18} {spearman(*copies(base, judge, baseline)):6.2f}")
    return 0


def loaded(checkpoint: Path, weight: float) -> Sampler:
    """The bundled model with the LoRA of a checkpoint."""
    saved = find_saved(checkpoint, None)
    if saved is None:
        raise SystemExit(f"{checkpoint} is not a checkpoint.")
    with (
        tempfile.TemporaryDirectory() as folder,
        quiet(),
        written_again(saved, ModelSection(), Path(folder)) as made,
    ):
        return Sampler.load("storybook", loras=[(made.path, weight)])


if __name__ == "__main__":
    sys.exit(main())
