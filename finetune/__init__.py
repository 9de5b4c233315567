"""finetune teaches Stable Diffusion something new from a handful of pictures.

```python
from finetune import Sampler, load_recipe, run

run(load_recipe("recipes/lora/storybook.yaml"))
Sampler.load("storybook", loras=["runs/mycat-lora"])("a photo of mycat on snow")[0].image.show()
```

Names are loaded on first use, so that `import finetune` and `finetune --help` are fast.
"""

from __future__ import annotations

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from finetune.version import __version__ as __version__

if TYPE_CHECKING:
    from finetune.backbones import load_backbone as load_backbone
    from finetune.errors import FinetuneError as FinetuneError
    from finetune.errors import UserError as UserError
    from finetune.recipes import LoRARecipe as LoRARecipe
    from finetune.recipes import Recipe as Recipe
    from finetune.recipes import load_recipe as load_recipe
    from finetune.recipes.run import run as run
    from finetune.sampling import Sampler as Sampler

_HOMES = {
    "FinetuneError": "finetune.errors",
    "LoRARecipe": "finetune.recipes",
    "Recipe": "finetune.recipes",
    "Sampler": "finetune.sampling",
    "UserError": "finetune.errors",
    "load_backbone": "finetune.backbones",
    "load_recipe": "finetune.recipes",
    "run": "finetune.recipes.run",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    before = logging.root.manager.disable
    # On import, libraries suggest what else to install; nobody asked for that.
    logging.disable(logging.WARNING)
    try:
        return getattr(import_module(_HOMES[name]), name)
    finally:
        logging.disable(before)


def __dir__() -> list[str]:
    return sorted(__all__)
