"""What every recipe has in common: the sections of a run and how they are written down.

Nothing here imports torch, so that the command line can show help at once. The parts a recipe
chooses (its adapter, the files it leaves) are made by methods that import what they need.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from finetune.config import (
    DataSection,
    ModelSection,
    ObjectiveSection,
    OptimizerSection,
    OutputSection,
    PreviewSection,
    Section,
    TrainingSection,
)
from finetune.files import whole_file
from finetune.recipes.faults import Fault

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone


class Recipe(Section, ABC):
    """The whole description of a training run, typed and validated; one YAML file.

    A recipe chooses parts and never loops. A new kind of recipe is a subclass that fixes `kind`,
    has an `adapter` section, and says how its adapter is made and which files it leaves; it is
    entered in `finetune.recipes.RECIPES`.

    Attributes:
        finished_by: The file (relative to the run folder) that is written last, so that a run
            folder which has it is complete.
    """

    finished_by: ClassVar[str]

    kind: str
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    adapter: Section
    objective: ObjectiveSection = ObjectiveSection()
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection = TrainingSection()
    preview: PreviewSection = PreviewSection()
    output: OutputSection = OutputSection()

    @abstractmethod
    def make_adapter(self, backbone: Backbone) -> Adapter:
        """Attaches to `backbone` what this recipe trains."""

    @abstractmethod
    def write_results(
        self, adapter: Adapter, backbone: Backbone, folder: Path, name: str, metadata: dict[str, str]
    ) -> dict[Path, str]:
        """Writes the trained result into the run folder.

        Args:
            adapter: The trained adapter.
            backbone: The model it was trained on.
            folder: The run folder.
            name: Stem of the exported file.
            metadata: What the file says about how it was made (P7).

        Returns:
            The files written, each with one line that says what it is for.
        """

    def contradictions(self) -> Iterator[Fault]:
        """Settings that are valid alone but would be ignored or cannot work together (P3)."""
        if self.data.instance_dir is None:
            yield Fault("No pictures are given.", "data.instance_dir", "Give a folder with --instance-dir.")
        # Without a number of steps the preset has still to say it; then this is asked again.
        if "steps" in self.training.model_fields_set and self.optimizer.warmup_steps > self.training.steps:
            yield Fault(
                f"The warm-up ({self.optimizer.warmup_steps} steps) is longer than the run "
                f"({self.training.steps} steps).", "optimizer.warmup_steps",
                "Make it shorter, or raise training.steps.",
            )  # fmt: skip
        name = self.output.name
        if name is not None and (name != Path(name).name or name in {"", ".", ".."}):
            yield Fault(
                f"{name!r} is not a file name.", "output.name", "Give a name without a folder or a slash."
            )

    @property
    def subject(self) -> str:
        """A name for the run made from the folder of pictures, fit for a file name."""
        folder = self.data.instance_dir
        name = folder.resolve().name if folder is not None else ""
        return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "pictures"

    @property
    def run_name(self) -> str:
        """Name of the run and of its default folder under `runs/`."""
        return self.output.name or f"{self.subject}-{self.kind}"

    def public(self) -> dict[str, Any]:
        """The recipe as it is written into an exported file.

        Folders are given by their last name only and places that cannot change the result
        (run folder, cache folder) are left out: a file that is published tells nobody's home
        directory, and the same run in another folder gives the same bytes.
        """
        dump = self.model_dump(mode="json")
        dump["output"] = {"name": dump["output"]["name"]}
        del dump["data"]["cache_dir"]
        if self.data.instance_dir is not None:
            dump["data"]["instance_dir"] = self.data.instance_dir.resolve().name
        if Path(self.model.name).exists():
            dump["model"]["name"] = Path(self.model.name).resolve().name
        return dump

    def to_yaml(self) -> str:
        """The recipe as YAML, every setting written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def save(self, path: Path, comment: str = "") -> None:
        """Writes the YAML file, below `comment` if there is one."""
        with whole_file(path) as aside:
            head = "".join(f"# {line}\n" for line in comment.splitlines())
            aside.write_text(head + self.to_yaml(), encoding="utf-8")


def flatten(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested settings with their dotted keys: `("optimizer.lr", 0.0001)`, …."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def sections(kind: type[Recipe]) -> dict[str, type[BaseModel]]:
    """The sections of a kind of recipe by name: `{"model": ModelSection, …}`."""
    annotations = {name: field.annotation for name, field in kind.model_fields.items()}
    return {n: a for n, a in annotations.items() if isinstance(a, type) and issubclass(a, BaseModel)}


def setting_fields(kind: type[Recipe]) -> dict[str, FieldInfo]:
    """The definition of every dotted key of a kind of recipe, in the order of the YAML file."""
    return {
        f"{name}.{key}": field
        for name, section in sections(kind).items()
        for key, field in section.model_fields.items()
    }
