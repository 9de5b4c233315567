"""The ControlNet recipe: a branch that makes the model follow edges, silhouettes or depth maps."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from finetune.config import ControlNetSection, PairsSection, WeightsOutputSection
from finetune.config.base import Fault
from finetune.recipes.base import Recipe
from finetune.recipes.length import samples_per_step
from finetune.recipes.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone
    from finetune.data import Folder, PictureSource, PriorSource
    from finetune.training.protocols import Hook

FOLDER = "controlnet"


class ControlNetRecipe(Recipe):
    """Trains a ControlNet (Zhang et al. 2023, arXiv:2302.05543) on pairs of pictures."""

    finished_by: ClassVar[str] = f"{FOLDER}/config.json"

    kind: Literal["controlnet"] = "controlnet"
    data: PairsSection = PairsSection()
    adapter: ControlNetSection = ControlNetSection()
    output: WeightsOutputSection = WeightsOutputSection()

    def faults(self) -> Iterator[Fault]:
        """As `Recipe.faults`, and rounded weights."""
        yield from super().faults()
        yield from self.model.unrounded("A ControlNet begins as a copy of the UNet's weights.")

    def scan(self, report: Reporter = SILENT) -> Folder:
        """Reads the pairs.

        Args:
            report: Shows how far it is.

        Raises:
            DataError: If there are none that can be trained on, or control pictures do not fit.
            ConfigError: If the library that makes the control pictures is missing.
        """
        from finetune.data import scan_paired_folders
        from finetune.data.control import check_control_kind

        check_control_kind(self.data.preprocess)
        with self.reader(report) as reader:
            return scan_paired_folders(self.data, reader)

    def make_adapter(self, backbone: Backbone) -> Adapter:
        """A branch beside the UNet; a new one's initial weights depend on model and seed alone."""
        from finetune.adapters import ControlNet

        return ControlNet(backbone, self.adapter, seed=self.training.seed)

    def make_source(
        self, pictures: Folder, backbone: Backbone, adapter: Adapter, report: Reporter
    ) -> PictureSource | PriorSource:
        """Pictures with their control pictures."""
        from finetune.data import PairedFolder, PairSource

        assert isinstance(pictures, PairedFolder)
        group = samples_per_step(self.training)
        return PairSource(pictures, backbone, self.data, self.training.seed, group, self.captions)

    def make_preview(
        self, adapter: Adapter, source: PictureSource | PriorSource, path: Callable[[int], Path]
    ) -> Hook:
        """Samples of the first pairs' captions and control pictures, each beside its control picture."""
        from finetune.adapters import ControlNet
        from finetune.data import PairSource
        from finetune.sampling import ControlSpec, Sampler
        from finetune.sampling.control import Control, control_image
        from finetune.sampling.preview import preview_count, preview_pairs
        from finetune.training.watcher import Event

        assert isinstance(adapter, ControlNet) and isinstance(source, PairSource)
        sampler = Sampler(adapter.backbone, precision=self.training.precision)
        sampler.controls.append(Control(FOLDER, adapter.branch, ControlSpec(Path(FOLDER))))

        def hook(step: int) -> Event:
            shown = [(text, control_image(row)) for text, row in source.shown(preview_count(self.preview))]
            preview_pairs(sampler, shown, self.preview, path(step), self.data.resolution)
            return Event("preview", path(step))

        return hook

    def started_from(self, adapter: Adapter) -> dict[str, str]:
        """A hash of the ControlNet that training starts from."""
        from finetune.adapters import ControlNet
        from finetune.backbones.fingerprint import fingerprint

        assert isinstance(adapter, ControlNet)
        if self.adapter.start is None:
            return {}
        return {"weights of adapter-start": fingerprint([adapter.branch], [])}

    def sample_flags(self, folder: Path) -> str:
        """The ControlNet, and a placeholder for a control picture."""
        made = "" if self.data.preprocess == "none" else f":{self.data.preprocess}"
        return f"--controlnet {shlex.quote(f'{folder}:PICTURE.png{made}')}"

    def write_results(
        self, adapter: Adapter, backbone: Backbone, folder: Path, name: str, metadata: dict[str, str]
    ) -> dict[Path, str]:
        """The ControlNet as a diffusers folder; with a rank also as a Control-LoRA file."""
        from finetune.adapters import ControlNet
        from finetune.backbones.precision import PRECISIONS
        from finetune.files import whole_folder
        from finetune.formats import write_control_lora, write_controlnet

        assert isinstance(adapter, ControlNet)
        dtype = PRECISIONS[self.output.weights]
        written: dict[Path, str] = {}
        if self.adapter.rank is not None:
            file = folder / f"{name}.safetensors"
            write_control_lora(file, adapter, metadata, dtype)
            written[file] = "the updates alone (Control-LoRA), for ComfyUI and diffusers"
        place = folder / FOLDER
        with whole_folder(place) as aside:
            write_controlnet(aside, adapter, metadata, dtype)
        return written | {place: "for diffusers and finetune sample --controlnet"}
