"""What every recipe has in common: the sections of a run, and the parts that are made from them.

Nothing here imports torch, so that the command line can show help at once. The parts a recipe
chooses (its adapter, the files it leaves) are made by methods that import what they need.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import Self

from finetune.config import (
    CaptionsSection,
    DataSection,
    ModelSection,
    ObjectiveSection,
    OptimizerSection,
    OutputSection,
    PreviewSection,
    Section,
    TrainingSection,
    public_name,
)
from finetune.config.adapters import AllWeightsSection
from finetune.config.base import NO_NAME, Fault, plain_name
from finetune.recipes.fields import changed, sections
from finetune.recipes.length import samples_per_step
from finetune.recipes.plain_yaml import write_yaml
from finetune.recipes.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone
    from finetune.data import Folder, PictureSource, PriorSource
    from finetune.data.read import Reader
    from finetune.training import RunFolder
    from finetune.training.protocols import Hook, Loss


class Recipe(Section, ABC):
    """The whole description of a training run, typed and validated; one YAML file.

    A recipe chooses parts and never loops. A new kind is a subclass that fixes `kind`, has an `adapter`
    section, and says how its adapter is made and which files it leaves; `finetune.recipes.RECIPES` lists it.

    Attributes:
        finished_by: The file in the run folder that is written last; with it, a run is complete.
        folder_field: The setting of `data` that names the folder of pictures.
        carries_schedule: Whether the export stores the noise schedule to sample it with.
        unused: Dotted keys that this kind of recipe has no use for, and refuses.
        stages: Folders in the run folder, for what is trained first.
    """

    finished_by: ClassVar[str]
    folder_field: ClassVar[str] = "data_dir"
    carries_schedule: ClassVar[bool] = False
    unused: ClassVar[frozenset[str]] = frozenset()
    stages: ClassVar[tuple[str, ...]] = ()

    kind: str
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    captions: CaptionsSection = CaptionsSection()
    adapter: Section
    objective: ObjectiveSection = ObjectiveSection()
    optimizer: OptimizerSection = OptimizerSection()
    training: TrainingSection = TrainingSection()
    preview: PreviewSection = PreviewSection()
    output: OutputSection = OutputSection()

    @property
    def trains_text(self) -> bool:
        """Whether the text encoders are trained too."""
        return False

    @property
    def learns_word(self) -> bool:
        """Whether a new word is learned besides something else."""
        return False

    def load(self, pictures: Folder, report: Reporter) -> tuple[Self, Backbone]:
        """Loads the model.

        Args:
            pictures: What `scan` found.
            report: Tells the user which model it is, and what is odd about it.

        Returns:
            This recipe with the model's resolved name, and the model.
        """
        from finetune.backbones import load_stored
        from finetune.recipes.model import resolved

        section, sentence = resolved(self.model)
        report.tell(sentence)
        backbone = load_stored(section)
        for note in backbone.notes:
            report.warn(note)
        return self.model_copy(update={"model": section}), backbone

    def train_first(self, backbone: Backbone, pictures: Folder, folder: RunFolder, report: Reporter) -> None:
        """Trains what must exist before the pictures are encoded; usually nothing.

        Args:
            backbone: The model, its precision settled.
            pictures: What `scan` found.
            folder: The run folder.
            report: Tells the user about long work.
        """

    @abstractmethod
    def make_adapter(self, backbone: Backbone) -> Adapter:
        """Attaches to `backbone` what this recipe trains."""

    def make_objective(self, scheduler: Any, adapter: Adapter) -> Loss[Any]:
        """Makes the loss.

        Args:
            scheduler: The model's own, with the noise schedule of the settings.
            adapter: What is trained.
        """
        from finetune.diffusion.objective import Objective

        return Objective(scheduler, self.training.seed, self.objective, adapter.predict_untrained)

    def fill_in(self, values: dict[str, Any], backbone: Backbone) -> None:
        """Fills in what only the loaded model knows.

        Args:
            values: This recipe as plain data; the precision is settled.
            backbone: The model, with nothing attached yet.
        """
        if values["data"]["resolution"] is None:
            values["data"]["resolution"] = backbone.native_size

    def scan(self, report: Reporter = SILENT) -> Folder:
        """Reads the folders of pictures.

        Args:
            report: Shows how far it is.

        Raises:
            DataError: If there is nothing in one of them to train on.
        """
        from finetune.data import scan_folders

        with self.reader(report) as reader:
            return scan_folders(self.main_folder, None, self.data, reader)

    @contextmanager
    def reader(self, report: Reporter) -> Iterator[Reader]:
        """Reads picture files as `data` has it, and shows how far it is."""
        from finetune.data.read import Reader

        if (name := self.data.dataset) and not self.data.streaming:
            report.tell(f"Data set {name}: what is not in the cache of `datasets` is downloaded.")
        with report.progress("Reading pictures") as progress:
            yield Reader.of(self.data, progress)

    def make_source(
        self, pictures: Folder, backbone: Backbone, adapter: Adapter, report: Reporter
    ) -> PictureSource | PriorSource:
        """Makes the source of the batches.

        Args:
            pictures: What `scan` found.
            backbone: Encodes pictures and captions; its precision is settled.
            adapter: What is trained.
            report: Tells the user about long work.
        """
        from finetune.data import PictureSource

        return PictureSource(
            pictures,
            backbone,
            self.data,
            self.training.seed,
            adapter.trains_text,
            captions=self.captions,
            group=samples_per_step(self.training),
        )

    def make_preview(
        self, adapter: Adapter, source: PictureSource | PriorSource, path: Callable[[int], Path]
    ) -> Hook:
        """Makes the hook that samples previews during training.

        Args:
            adapter: What is trained, attached to its model.
            source: Its captions are sampled if no prompts are given.
            path: Where the grid of a step goes.
        """
        from finetune.sampling import Sampler
        from finetune.sampling.preview import preview
        from finetune.training.watcher import Event

        sampler = Sampler(adapter.backbone, precision=self.training.precision)

        def hook(step: int) -> Event | None:
            made = preview(sampler, source.captions(), self.preview, path(step), self.data.resolution)
            return Event("preview", path(step)) if made else None

        return hook

    @abstractmethod
    def sample_flags(self, folder: Path) -> str:
        """The flags of `finetune sample` that use the results in a run folder."""

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

    def faults(self) -> Iterator[Fault]:
        """The faults in every section, and those between sections (P3)."""
        for own in sections(type(self)):
            yield from getattr(self, own).faults()
        yield from self.data.unclear(self.folder_field)
        for key in changed(self, self.unused):
            yield Fault(f"{key} has no effect on {self.kind}.", key, "Leave it out.")
        yield from self.optimizer.unfit(self.training)
        if isinstance(self.adapter, AllWeightsSection):
            yield from self.adapter.unfit(self.optimizer, self.training)
        yield from self.optimizer.not_trained(text=self.trains_text, word=self.learns_word)
        if not self.carries_schedule:
            yield from self.objective.unfit()
        # Where the preset decides the steps, this is checked again with them filled in.
        if "steps" in self.training.model_fields_set:
            yield from self.optimizer.too_long(self.training.steps)
        if (name := self.output.name) == Path(self.finished_by).stem:
            yield Fault(f"Another file of the run is named {name}.", "output.name", "Choose another name.")

    def notes(self) -> Iterator[str]:
        """What the user should know about these settings before training."""
        yield from ()

    @property
    def main_folder(self) -> Path | None:
        """The folder of pictures that has no entry in `data.sources`, if there is one."""
        folder: Path | None = getattr(self.data, self.folder_field)
        return folder and folder.expanduser()

    @property
    def folders(self) -> list[Path]:
        """All that is taught, the main folder, or the data set of the Hub, first."""
        main = self.main_folder or (self.data.dataset and Path(self.data.dataset))
        others = [source.dir.expanduser() for source in self.data.sources if source.taught]
        return [main, *others] if main else others

    @property
    def subject(self) -> str:
        """A name for the run made from the first folder of pictures, fit for a file name."""
        return plain_name(self.folders[0].resolve().name) if self.folders else NO_NAME

    @property
    def run_name(self) -> str:
        """Name of the run and of its default folder under `runs/`."""
        return self.output.name or f"{self.subject}-{self.kind}"

    def started_from(self, adapter: Adapter) -> dict[str, str]:
        """Hashes of what a run starts from besides the model; taken before training."""
        return {}

    def public(self) -> dict[str, Any]:
        """The recipe as it is written into an exported file.

        Of folders it has the last name only, and neither the run folder nor the cache folder: a published
        file reveals nobody's home directory, and the same run in another folder gives the same bytes.
        """
        dump = super().public() | {own: getattr(self, own).public() for own in sections(type(self))}
        dump["output"] = {"name": dump["output"]["name"]}
        del dump["data"]["cache_dir"]
        dump["model"]["name"] = public_name(self.model.name)
        return dump

    def save_in(self, folder: RunFolder) -> None:
        """Writes the resolved recipe of a run into its folder, every setting written out."""
        values = self.model_dump(mode="json")
        values["output"]["dir"] = None  # running it again makes a new folder
        comment = f"The resolved recipe of this run: `finetune run {folder.recipe}` repeats it."
        write_yaml(folder.recipe, values, comment)
