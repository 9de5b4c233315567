"""Importing torch, diffusers and PEFT in two thirds of the time."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_HIDDEN = "bitsandbytes"
# How often a waiting thread looks for work before it sleeps. The default is so often that two threads on two
# cores take many times as long beside another busy process, since one of them waits on a core that the other
# needs. docs/performance.md has figures.
_SPINS = "10000"


@contextmanager
def large_imports() -> Iterator[None]:
    """Saves time while a command imports the libraries, for a process that ends with its command.

    Garbage is not collected meanwhile. There is next to none, but each collection would look at all of the
    hundreds of thousands of objects that the modules leave; later ones leave these out, too.

    bitsandbytes seems to be missing meanwhile, and to PEFT ever after. It would import it, and with it
    torch's compiler, for quantized models, which are not trained here. The optimizers that need it import it
    when they are chosen.

    PyTorch's threads, on Linux those of GNU's OpenMP, are told to sleep soon when they wait.

    Nothing is done if torch is there already, as in a program that calls `main` itself.

    Relies on PEFT (0.21) remembering whether there is a bitsandbytes; `tests/cli/test_imports.py`
    checks it.
    """
    if "torch" in sys.modules:
        yield
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    gc.disable()
    # The import system takes None for a module that does not exist.
    sys.modules[_HIDDEN] = None  # type: ignore[assignment]
    try:
        yield
        from peft.import_utils import is_bnb_available

        is_bnb_available()
    finally:
        del sys.modules[_HIDDEN]
        gc.freeze()
        gc.enable()
