"""What `finetune eval` judges: a result, the model that it was made from, and the pictures it was taught."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from finetune.config import ModelSection
from finetune.config.evaluation import EvaluationSection
from finetune.data import Folder
from finetune.errors import ConfigError
from finetune.evaluation.baseline import measure_base
from finetune.evaluation.judge import Judge
from finetune.evaluation.known import Known
from finetune.evaluation.measure import Report, measure
from finetune.evaluation.plan import Plan, subject_prompt
from finetune.export import Made, what_is
from finetune.recipes.base import Recipe
from finetune.recipes.load import Setting, build, load_recipe
from finetune.recipes.model import model_for, resolved
from finetune.recipes.reporter import Reporter
from finetune.recipes.rewrite import find_saved, written_again
from finetune.recipes.validation import held_out
from finetune.sampling import Sampler

KINDS = ("lora", "dreambooth", "full", "embedding")
"""The recipes whose results can be judged by their pictures of a subject."""


@dataclass(frozen=True)
class Evaluated:
    """A result, ready to be measured.

    Attributes:
        base: The model that it was made from.
        trained: The model with the result.
        training: The pictures it was taught.
        held: Those held out, if there are any.
        plan: The prompts.
        settings: How it is judged.
    """

    base: Sampler
    trained: Sampler
    training: Known
    held: Known | None
    plan: Plan
    settings: EvaluationSection

    def measure(self, report: Reporter) -> Report:
        """Measures the result.

        Args:
            report: Shows how far it is.
        """
        side, seed = self.base.backbone.native_size, self.settings.seed
        at_once = self.base.most_at_once((side, side))
        base, trained = (Judge(s.backbone, seed, at_once) for s in (self.base, self.trained))
        with report.progress("The base model") as progress:
            baseline = measure_base(
                self.base, base, self.plan, self.settings, self.training, self.held, progress
            )
        with report.progress("The trained model") as progress:
            return measure(baseline, base, self.trained, trained, progress)


@contextmanager
def evaluated(
    path: Path, given: ModelSection, settings: EvaluationSection, folder: Path | None, report: Reporter
) -> Iterator[Evaluated]:
    """Finds and loads a result, its model and its pictures.

    Args:
        path: A run folder, one of its checkpoints, or a file.
        given: What the user set of the model.
        settings: How it is judged.
        folder: The pictures it was taught; None for those that the run folder names.
        report: Tells the user which model and which pictures they are.

    Yields:
        Both models, loaded.

    Raises:
        UserError: Something is missing or cannot be judged; the models have not been loaded then.
    """
    saved = find_saved(path, None)
    made = saved.made if saved else what_is(path)
    recipe = _recipe(saved.run if saved else path)
    _check(made, recipe, settings, path)
    pictures, held = _pictures(recipe, folder, path, report)
    section, sentence = _base(given, made, recipe)
    report.tell(sentence)
    base = Sampler.load(section)
    training = Known.read(pictures, base.backbone)
    prompt = subject_prompt(settings, training.captions, pictures.path)
    known = settings.class_prompt or (None if recipe is None else class_prompt_of(recipe))
    plan = Plan.of(settings, prompt, known, settings.unrelated)
    others = None if held is None else Known.read(held, base.backbone)
    with ExitStack() as stack:
        if saved:
            place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            made = stack.enter_context(written_again(saved, given, place))
        trained = _trained(section, made, settings.weight)
        yield Evaluated(base, trained, training, others, plan, settings)


def _recipe(path: Path) -> Recipe | None:
    """The recipe of a run folder, or of the one that a file is in."""
    places = (path / "recipe.yaml", path.parent / "recipe.yaml")
    return next((load_recipe(place) for place in places if place.is_file()), None)


def _check(made: Made, recipe: Recipe | None, settings: EvaluationSection, path: Path) -> None:
    kind = recipe.kind if recipe else made.kind
    if made.kind == "controlnet" or (recipe and kind not in KINDS):
        raise ConfigError(
            f"A result of {kind} shows no subject that could be recognized.",
            where=str(path),
            fix=f"Give a result of {', '.join(KINDS)}.",
        )
    if settings.weight != 1 and made.kind != "lora":
        raise ConfigError(
            "Only a LoRA has a weight.", where="evaluation.weight", fix="Leave it out, or give a LoRA."
        )


def _pictures(
    recipe: Recipe | None, folder: Path | None, path: Path, report: Reporter
) -> tuple[Folder, Folder | None]:
    if folder is not None:
        own = build("lora", [Setting("data.instance_dir", str(folder), "--instance-dir")])
        return own.scan(report), None
    if recipe is None:
        raise ConfigError(
            "The pictures that it was taught are not known: there is no recipe.yaml beside it.",
            where=str(path),
            fix="Give them with --instance-dir, or give the run folder.",
        )
    pictures = recipe.scan(report)
    if pictures.stream is not None:
        raise ConfigError(
            "It was taught from a stream of pictures.",
            where=str(path),
            fix="Unpack some of them into a folder, and give it with --instance-dir.",
        )
    return held_out(recipe, pictures, report)


def _base(given: ModelSection, made: Made, recipe: Recipe | None) -> tuple[ModelSection, str]:
    if recipe is not None:
        # Whether a pickle may be loaded is for the user of this machine to say (P6), not for a folder.
        said = {"allow_pickle": False} | given.model_dump(exclude_unset=True)
        return resolved(ModelSection(**(recipe.model.model_dump() | said)))
    if made.kind != "model":
        return model_for(given, made.kind, made.path)
    if "name" not in given.model_fields_set:
        raise ConfigError(
            "The model that it was trained from is not known.",
            where=str(made.path),
            fix="Give it with --model.",
        )
    return resolved(given)


def class_prompt_of(recipe: Recipe) -> str | None:
    """What a run itself says of the class: its prompt, or the first that it preserves."""
    prompt: str | None = getattr(recipe.data, "class_prompt", None)
    return prompt or next(iter(getattr(recipe.data, "preserve", ())), None)


def _trained(section: ModelSection, made: Made, weight: float) -> Sampler:
    if made.kind == "model":
        return Sampler.load(section.model_copy(update={"name": str(made.path)}))
    if made.kind == "embedding":
        return Sampler.load(section, embeddings=[made.path])
    return Sampler.load(section, loras=[(made.path, weight)])
