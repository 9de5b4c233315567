"""The distill recipe: a LoRA with which a model needs four steps instead of twenty-five."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from finetune.config import CaptionedSection
from finetune.config.objective import CONSISTENCY_C, ConsistencySection
from finetune.recipes.low_rank import LowRankRecipe

if TYPE_CHECKING:
    from finetune.adapters.base import Adapter
    from finetune.backbones import Backbone
    from finetune.diffusion.consistency import ConsistencyObjective

_HINT = "LCM-LoRA: sample with the LCM sampler, 4 to 8 steps and a guidance (CFG) scale of 1."


class DistillRecipe(LowRankRecipe):
    """Trains an LCM-LoRA (Luo et al. 2023, arXiv:2311.05556) on captioned pictures."""

    unused: ClassVar[frozenset[str]] = frozenset(
        f"objective.{name}"
        for name in (
            *("weighting", "min_snr_gamma", "p2_gamma", "p2_k", "timesteps", "logit_normal"),
            *("input_perturbation", "beta_schedule", "zero_terminal_snr"),
        )
    ) | {f"adapter.{name}" for name in ("text_encoder", "placeholder", "vectors", "initializer")}

    kind: Literal["distill"] = "distill"
    data: CaptionedSection = CaptionedSection()
    objective: ConsistencySection = ConsistencySection()

    def fill_in(self, values: dict[str, Any], backbone: Backbone) -> None:
        """As `Recipe.fill_in`, and the threshold of the distance, which is smaller than elsewhere."""
        super().fill_in(values, backbone)
        objective = values["objective"]
        if objective["loss"] in ("huber", "smooth_l1"):
            objective["huber_c"] = objective["huber_c"] or CONSISTENCY_C
            objective["huber_schedule"] = objective["huber_schedule"] or "constant"

    def make_objective(self, scheduler: Any, adapter: Adapter) -> ConsistencyObjective:
        """Agreement along the path of the sampler, with the model as it was for a teacher."""
        from finetune.backbones.predict import unconditional
        from finetune.data.texts import HiddenTexts
        from finetune.diffusion.consistency import ConsistencyObjective

        backbone = adapter.backbone
        empty = unconditional(backbone, HiddenTexts(backbone).conditioning([""]))
        teacher = adapter.predict_untrained
        return ConsistencyObjective(scheduler, self.training.seed, self.objective, teacher, empty)

    def sample_flags(self, folder: Path) -> str:
        """The run folder as a LoRA, and what it was distilled for."""
        return f"{super().sample_flags(folder)} --scheduler lcm --steps 4 --guidance 1"

    def write_results(
        self, adapter: Adapter, backbone: Backbone, folder: Path, name: str, metadata: dict[str, str]
    ) -> dict[Path, str]:
        """As `LowRankRecipe.write_results`, with how to sample it among the metadata."""
        return super().write_results(
            adapter, backbone, folder, name, metadata | {"modelspec.usage_hint": _HINT}
        )
