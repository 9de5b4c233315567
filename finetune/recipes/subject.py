"""What the recipes that teach one subject share: its pictures, and those of its class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from finetune.config import SubjectSection
from finetune.config.evaluation import EvaluateSection
from finetune.recipes.base import Recipe
from finetune.recipes.length import samples_per_step
from finetune.recipes.reporter import SILENT, Reporter

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone
    from finetune.data import Folder, PictureSource, PriorSource


class SubjectRecipe(Recipe):
    """Trains on a few pictures of a subject and, with a class prompt or class pictures, on its class too."""

    folder_field: ClassVar[str] = "instance_dir"

    data: SubjectSection = SubjectSection()
    evaluate: EvaluateSection = EvaluateSection()

    def fill_in(self, values: dict[str, Any], backbone: Backbone) -> None:
        """As `Recipe.fill_in`, and the folder of class pictures."""
        super().fill_in(values, backbone)
        data = values["data"]
        if data["class_prompt"] is not None and data["class_dir"] is None:
            from finetune.recipes.class_pictures import default_folder

            precisions = values["training"]["precision"], values["model"]["vae_precision"]
            prompt, size = data["class_prompt"], data["resolution"]
            data["class_dir"] = default_folder(prompt, size, precisions, backbone)

    def scan(self, report: Reporter = SILENT) -> Folder:
        """Reads the subject's pictures; those without a caption get the instance prompt."""
        from finetune.data import scan_folders

        with self.reader(report) as reader:
            return scan_folders(self.main_folder, self.data.instance_prompt, self.data, reader)

    def make_source(
        self, pictures: Folder, backbone: Backbone, adapter: Adapter, report: Reporter
    ) -> PictureSource | PriorSource:
        """The subject's pictures and, to preserve the class, as many of it, sampled if need be."""
        from finetune.data import PictureSource, PriorSource
        from finetune.recipes.class_pictures import class_pictures

        data, seed, text = self.data, self.training.seed, adapter.trains_text
        group = samples_per_step(self.training)
        instances = PictureSource(
            pictures,
            backbone,
            data,
            seed,
            text,
            captions=self.captions,
            group=group,
            preserve=data.preserve,
            preserve_share=data.preserve_share,
        )
        if not data.preserves_class:
            return instances
        # The adapter is attached, but has learned nothing yet.
        classes = class_pictures(data, backbone, self.training.precision, report)
        prior = PictureSource(classes, backbone, data.of_class(), seed, text, group=group)
        return PriorSource(instances, prior, data.prior_weight)
