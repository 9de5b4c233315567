"""Commands import the large libraries without what they do not need, and lose nothing by it."""

from __future__ import annotations

import gc
import subprocess
import sys

from finetune.cli.imports import large_imports

_PROGRAM = """
import gc, os, sys
from finetune.cli.imports import large_imports

with large_imports():
    import finetune.recipes.run
    assert not gc.isenabled()
assert int(os.environ["GOMP_SPINCOUNT"]) < 100_000
assert gc.isenabled() and gc.get_freeze_count() > 100_000

from peft import LoraConfig, inject_adapter_in_model
from torch import nn
inject_adapter_in_model(LoraConfig(target_modules=["0"]), nn.Sequential(nn.Linear(2, 2)))
assert not {"bitsandbytes", "torch._inductor.compile_fx"} & set(sys.modules)

from finetune.training.optimizers import make_optimizer
from finetune.config import OptimizerSection
made = make_optimizer([{"params": [nn.Parameter(nn.Linear(2, 2).weight)]}], OptimizerSection(name="lion"))
assert "bitsandbytes" in type(made).__module__
"""


def test_bitsandbytes_is_imported_only_for_an_optimizer_that_needs_it() -> None:
    """PEFT would import it twice: with itself, and to look for quantized layers when it adds its own."""
    subprocess.run([sys.executable, "-c", _PROGRAM], check=True)


def test_nothing_is_done_to_a_process_that_has_the_libraries() -> None:
    frozen, known = gc.get_freeze_count(), sys.modules.get("bitsandbytes")
    with large_imports():
        assert gc.isenabled()
        assert sys.modules.get("bitsandbytes") is known
    assert gc.get_freeze_count() == frozen
