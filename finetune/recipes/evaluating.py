"""Evaluation while a run trains: its lines, which checkpoint is the best, and when it has overfit."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from finetune.adapters import Adapter
from finetune.backbones import load_stored
from finetune.backbones.precision import PRECISIONS
from finetune.config.evaluation import EvaluateSection
from finetune.data import Folder
from finetune.errors import ConfigError
from finetune.evaluation.during import Start, forward_passes
from finetune.evaluation.judge import Judge
from finetune.evaluation.known import Known
from finetune.evaluation.plan import Plan, subject_prompt
from finetune.evaluation.score import Evaluation, best_of, overfit_since
from finetune.files import whole_file
from finetune.kinds import FORMS
from finetune.recipes.base import Recipe
from finetune.recipes.evaluated import class_prompt_of
from finetune.recipes.length import samples_per_step
from finetune.recipes.reporter import Reporter
from finetune.recipes.whole_model import WholeModelRecipe
from finetune.sampling import Sampler
from finetune.sampling.placement import autocast_to, borrowed
from finetune.training.metrics import Metrics
from finetune.training.run_folder import RunFolder
from finetune.training.watcher import Event

if TYPE_CHECKING:
    from finetune.training.protocols import Hook

_A_STEP = 4  # forward passes that training on a picture takes: the backward pass costs more than two


@dataclass(frozen=True)
class Pictures:
    """The pictures of a run.

    Attributes:
        training: Those that it is trained on.
        held: Those that it is not, if there are any.
    """

    training: Folder
    held: Folder | None


def evaluation_hooks(
    recipe: Recipe, pictures: Pictures, adapter: Adapter, folder: RunFolder, report: Reporter
) -> list[tuple[int, Hook]]:
    """The hook that evaluates, with the steps between its calls; none if the settings ask for none.

    Args:
        recipe: The settings.
        pictures: What the run is trained on, and what not.
        adapter: What is trained, attached to its model.
        folder: The run's.
        report: Is told what was found.

    Raises:
        ConfigError: If nothing is known that shows the subject.
    """
    section: EvaluateSection | None = getattr(recipe, "evaluate", None)
    if section is None or section.every is None:
        return []
    plan = _plan(recipe, section, pictures.training)
    trained, held = (len(folder.pictures) if folder else 0 for folder in (pictures.training, pictures.held))
    passes, every = forward_passes(section, trained, held), section.every
    steps = passes / (_A_STEP * samples_per_step(recipe.training))
    report.tell(
        f"Evaluations take about as long as {steps:.0f} steps each: the run takes {steps / every:.0%} longer."
    )
    return [(every, _Evaluating(recipe, section, pictures, adapter, folder, plan, report))]


def _plan(recipe: Recipe, section: EvaluateSection, known: Folder) -> Plan:
    if known.stream is not None:
        raise ConfigError(
            "A stream of pictures cannot be evaluated while it is trained on.",
            where="evaluate.every",
            fix="Leave it out, or unpack the pictures into a folder.",
        )
    captions = [picture.captions[0] for picture in known.pictures]
    prompt = subject_prompt(section, captions, known.path, "evaluate.prompt")
    return Plan.of(section, prompt, section.class_prompt or class_prompt_of(recipe))


class _Evaluating:
    """The hook."""

    def __init__(
        self,
        recipe: Recipe,
        section: EvaluateSection,
        pictures: Pictures,
        adapter: Adapter,
        folder: RunFolder,
        plan: Plan,
        report: Reporter,
    ) -> None:
        self._recipe, self._section, self._pictures = recipe, section, pictures
        self._adapter, self._folder, self._plan, self._report = adapter, folder, plan, report
        self._sampler = Sampler(adapter.backbone, precision=recipe.training.precision)
        # What trains all weights cannot be switched off; mapped from its file, this takes no memory yet.
        self._other = load_stored(recipe.model) if isinstance(recipe, WholeModelRecipe) else None
        self._start: Start | None = None
        self._metrics: Metrics | None = None
        self._said: int | None = None

    def __call__(self, step: int) -> Event:
        with self._models() as (base, trained):
            if self._start is None:
                self._start = self._begin(base)
            figures = self._start.look(self._sampler, trained, base)
        if self._metrics is None:
            self._metrics = Metrics(self._folder.evaluation, step - 1)
        self._metrics.write(step, **figures)
        return self._conclude(step, figures)

    @contextmanager
    def _models(self) -> Iterator[tuple[Judge, Judge]]:
        """The base model and the trained one, where they can be asked."""
        own = self._adapter.backbone
        device, dtype = own.device, PRECISIONS[self._recipe.training.precision]
        side = (own.native_size, own.native_size)
        judge = partial(Judge, seed=self._section.seed, at_once=self._sampler.most_at_once(side))
        mixed = partial(autocast_to, dtype, device)
        parts = [own.vae, *own.text_encoders]
        if self._other is not None:
            self._other.to(device, own.dtype).vae_dtype = own.vae_dtype
            base = judge(self._other, inside=mixed)
        else:
            base = judge(own, inside=partial(_switched_off, self._adapter, mixed))
        with borrowed(parts, device), torch.no_grad():
            yield base, judge(own, inside=mixed)

    def _begin(self, base: Judge) -> Start:
        training = Known.read(self._pictures.training, base.backbone)
        other = self._pictures.held
        held = None if other is None else Known.read(other, base.backbone)
        sampler = Sampler(base.backbone, precision=self._recipe.training.precision)
        with base.inside():
            return Start.of(sampler, base, self._plan, self._section, training, held)

    def _conclude(self, step: int, figures: dict[str, float]) -> Event:
        found = read_evaluations(self._folder)
        best, since = best_of(found), overfit_since(found)
        new = best.step == step
        groups = [f"{group} {figures[f'prompt_{group}']:.0%}" for group in self._plan.contexts]
        self._report.tell(
            f"Step {step}: details {figures['details']:.0%}, {', '.join(groups)}, class changed by "
            f"{figures['class_changed']:.0%}, copies {figures['copies']:.0%}; score {figures['score']:.2f}"
            + (", the best so far." if new else f" (best: {best.score:.2f} at step {best.step}).")
        )
        if since is not None and since != self._said:
            self._report.tell(f"Overfitting since step {since}: every evaluation after it is worse.")
        self._said = since
        if self._section.keep_best:
            _write_best(self._folder, best)
        values = {f"evaluation_{name}": value for name, value in figures.items()}
        stop = self._section.stop and since is not None
        keep = stop or (new and self._section.keep_best)
        return Event("evaluation", self._folder.evaluation, values=values, keep=keep, stop=stop)


@contextmanager
def _switched_off(adapter: Adapter, mixed: Callable[[], AbstractContextManager[object]]) -> Iterator[None]:
    with adapter.switched_off(), mixed():
        yield


def read_evaluations(folder: RunFolder) -> list[Evaluation]:
    """The evaluations of a run, in order.

    Args:
        folder: The run's; its lines must be whole.
    """
    lines = folder.evaluation.read_text(encoding="utf-8").splitlines() if folder.evaluation.is_file() else []
    values = [json.loads(line) for line in lines]
    return [Evaluation(line["step"], line["score"] or 0.0, line.get("held_out_loss")) for line in values]


def _write_best(folder: RunFolder, best: Evaluation) -> None:
    values = {"step": best.step, "score": best.score}
    with whole_file(folder.best) as aside:
        aside.write_text(json.dumps(values) + "\n", encoding="utf-8")


def told_at_end(recipe: Recipe, folder: RunFolder, step: int) -> Iterator[str]:
    """What is said of the evaluations when a run has ended.

    Args:
        recipe: The settings.
        folder: The run's.
        step: The last.
    """
    found = read_evaluations(folder)
    if not found or found[-1].step != step:
        return
    if step < recipe.training.steps:
        yield f"It was stopped after step {step} of {recipe.training.steps}, since it had overfit."
    best, last = best_of(found), found[-1]
    place = folder.checkpoint(best.step)
    if best.score > last.score and place.is_dir():
        form = FORMS[recipe.kind]
        out = "best" if form == "merged" else "best.safetensors"
        command = f"finetune export {shlex.quote(str(place))} --to {form} -o {out}"
        yield (
            f"The best step was {best.step}, with score {best.score:.2f}; the results, of step {step}, have "
            f"{last.score:.2f}. For those of step {best.step}: {command}"
        )
