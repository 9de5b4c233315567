"""Looks at the pictures of a recipe before anything long."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from finetune.backbones.outline import Outline, outline
from finetune.config import SubjectSection
from finetune.data import Folder, PairedFolder
from finetune.data.doctor import DataSet, Finding, Look, examine, look_at, sizes, worst
from finetune.data.doctor.framing import Framed, framed
from finetune.data.epoch import samples_by_folder
from finetune.data.folder import NothingUsable, list_data
from finetune.data.read import Reader
from finetune.data.streams.opening import is_stream
from finetune.errors import DataError
from finetune.recipes.base import Recipe
from finetune.recipes.model import resolved
from finetune.recipes.presets import with_preset
from finetune.recipes.pretrain import PretrainRecipe
from finetune.recipes.reporter import Reporter


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        folder: The folder as the user gave it, or the data set.
        recipe: What the pictures are for, with the preset of the model.
        model: A sentence that says which model it is.
        findings: The worst first.
        data: What was looked at; None if nothing can be trained on.
    """

    folder: Path
    recipe: Recipe
    model: str
    findings: list[Finding]
    data: DataSet | None = None

    def number(self, severity: str) -> int:
        """How many findings are this bad."""
        return sum(finding.severity == severity for finding in self.findings)

    def plain(self) -> dict[str, Any]:
        """As plain data, for JSON."""
        known = {"folder": str(self.folder), "recipe": self.recipe.kind, "model": self.model}
        facts = {} if self.data is None else facts_of(self.data, self.recipe)
        return {**known, **facts, "findings": [finding.plain() for finding in self.findings]}


def check(recipe: Recipe, report: Reporter) -> Report:
    """Scans a recipe's folder, looks at every picture and caption, and says what is odd about them.

    No model is loaded.

    Args:
        recipe: The recipe; what is not set gets the preset of its model.
        report: Shows how far it is.

    Raises:
        UserError: If there is no such folder, or the model or a setting is wrong.
    """
    known, preset, sentence = _model(recipe)
    path, main = recipe.folders[0], recipe.main_folder
    recipe = with_preset(recipe, preset)
    setting = f"data.{recipe.folder_field}"
    listed = main is not None and not is_stream(main, recipe.data)
    found = list_data(main, recipe.data, setting).found if listed else ()
    try:
        folder = recipe.scan(report)
    except NothingUsable as error:
        files = sizes.skipped(DataSet(Folder(path, (), error.skipped, ())))
        return Report(path, recipe, sentence, [Finding("unusable", "error", error.sentence), *files])
    except DataError as error:
        where = "" if error.where in {None, str(path)} else f" ({error.where})"
        what = " ".join(f"{error.what}{where}".split())
        return Report(path, recipe, sentence, [Finding("unusable", "error", what, fix=error.fix or "")])
    resolution = recipe.data.resolution or known.native_size
    places = framed(folder.pictures, recipe.data, resolution, known.factor)
    looks = _looks(folder, resolution, report)
    classes = {one.default for one in found}
    default = classes.pop() if len(classes) == 1 else None
    data = data_set(folder, recipe, default, places, looks, known)
    return Report(path, recipe, sentence, examine(data), data)


def _model(recipe: Recipe) -> tuple[Outline, str, str]:
    """What is known of the model, the name of its preset, and a sentence."""
    if isinstance(recipe, PretrainRecipe):  # its tokenizer will learn the captions
        factor = 2 ** (len(recipe.architecture.sizes()["autoencoder_channels"]) - 1)
        return Outline("sd1", recipe.resolution, factor, ()), "sd1", "Model: a new one."
    section, sentence = resolved(recipe.model)
    found = outline(section)
    if found.assumed:
        sentence = f"{sentence.rstrip('.')}, which is not here; taken to be like SD 1.5."
    return found, "storybook" if section.name == "storybook" else found.family, sentence


def _looks(folder: Folder, resolution: int, report: Reporter) -> list[Look]:
    controls = folder.controls if isinstance(folder, PairedFolder) else repeat(None)
    with report.progress("Looking at pictures") as progress:
        return Reader(progress=progress).map(
            lambda pair: look_at(pair[0], resolution, pair[1]), zip(folder.pictures, controls, strict=False)
        )


def data_set(
    folder: Folder,
    recipe: Recipe,
    default: str | None = None,
    places: Framed = (),
    looks: Sequence[Look] = (),
    outline: Outline | None = None,
) -> DataSet:
    """A scanned folder with what the recipe is going to do with it.

    Args:
        folder: The folder.
        recipe: The recipe.
        default: What the folder's layout calls the subject, as kohya's folders do.
        places: What part of each picture is trained on.
        looks: What the pictures look like.
        outline: The model's; without one, captions are not tokenized.
    """
    trigger, asked = "", False
    if isinstance(recipe.data, SubjectSection):
        prompt, asked = recipe.data.instance_prompt, recipe.data.instance_prompt is not None
        trigger = (prompt or default or folder.path.resolve().name).removeprefix("a photo of ")
    return DataSet(
        folder,
        places,
        recipe.data.crop_warning,
        trigger,
        asked,
        looks,
        outline.tokenizers if outline else (),
        recipe.captions,
        outline.tokens if outline else 77,
        recipe.model.max_tokens // 75,
        recipe.data.flip,
    )


def facts_of(data: DataSet, recipe: Recipe) -> dict[str, Any]:
    """Numbers about a data set: plain data."""
    pictures = data.folder.pictures
    rows = recipe.training.samples_per_step(1)
    by_area = sorted(((p.width, p.height) for p in pictures), key=math.prod)
    shapes = Counter(at.size for _, at in data.framed)
    facts = {
        "pictures": len(pictures),
        "formats": dict(Counter(look.kind for look in data.looks).most_common()),
        "smallest": list(by_area[0]),
        "largest": list(by_area[-1]),
        "shapes": {f"{width}x{height}": n for (height, width), n in shapes.most_common()},
        "captioned": len(data.captioned),
        "batch_size": rows,
    }
    if data.folder.stream:
        return {**facts, "shards": len(data.folder.stream.shards)}
    by_folder = samples_by_folder([p for p, _ in data.framed], data.folder.path)
    samples = sum(by_folder.values())
    return {
        **facts,
        "samples_per_epoch": samples,
        "samples_by_folder": {str(place): number for place, number in by_folder.items()},
        "steps_per_epoch": math.ceil(samples / rows),
    }


def told(recipe: Recipe, folder: Folder) -> list[str]:
    """The worst three things about a data set that training tells: lines for its summary."""
    return [finding.line() for finding in worst(data_set(folder, recipe))]
