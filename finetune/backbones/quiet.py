"""Hides the libraries' own chatter while a model is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.utils import logging as _diffusers
from transformers.utils import logging as _transformers


@contextmanager
def quiet() -> Iterator[None]:
    """Silences progress bars and warnings of diffusers and transformers, and puts them back as they were.

    What matters in them (missing and unexpected keys, shape mismatches) is reported by the loaders here.
    """
    libraries: tuple[Any, Any] = (_diffusers, _transformers)
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bar) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bar:
                library.enable_progress_bar()
