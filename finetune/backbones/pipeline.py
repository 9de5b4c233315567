"""A diffusers pipeline of a backbone's own modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune.backbones.names import numbered

if TYPE_CHECKING:
    from finetune.backbones.backbone import Backbone


def make_pipeline(backbone: Backbone, branches: Sequence[Any], kind: Any) -> Any:
    """As `Backbone.pipeline`."""
    tokenizers = zip(numbered("tokenizer", len(backbone.tokenizers)), backbone.tokenizers, strict=True)
    parts = {**backbone.module_roots(), "vae": backbone.vae, **dict(tokenizers), **backbone.pipeline_options}
    if branches:
        # The pipeline wraps a list in a MultiControlNetModel, even a list of one.
        parts["controlnet"] = list(branches) if len(branches) > 1 else branches[0]
    kind = kind or (backbone.branched_class if branches else backbone.pipeline_class)
    scheduler = type(backbone.scheduler).from_config(
        backbone.scheduler.config
    )  # a copy: schedulers have state
    pipeline = kind(**parts, scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
