"""Pictures from a model: the same sampler for users, for previews and for measurements.

Names are loaded on first use, so that `finetune.sampling.settings` can be read without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from finetune.sampling.output import save_plots as save_plots
    from finetune.sampling.output import save_samples as save_samples
    from finetune.sampling.sample import Sample as Sample
    from finetune.sampling.sampler import Sampler as Sampler
    from finetune.sampling.specs import ControlSpec as ControlSpec

_HOMES = {
    "ControlSpec": "specs",
    "Sample": "sample",
    "Sampler": "sampler",
    "save_plots": "output",
    "save_samples": "output",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
