"""Loading a model says nothing and leaves the libraries' settings alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from diffusers.utils import logging as diffusers_logging
from transformers.utils import logging as transformers_logging

from finetune.backbones import load_backbone
from finetune.config import ModelSection


def test_loading_is_silent_and_leaves_the_libraries_as_they_were(
    tiny_models: dict[str, Path], capfd: pytest.CaptureFixture[str]
) -> None:
    libraries = (diffusers_logging, transformers_logging)
    try:
        for library in libraries:
            library.set_verbosity_info()
            library.enable_progress_bar()
        capfd.readouterr()
        load_backbone(ModelSection(name=str(tiny_models["sdxl"])))
        assert capfd.readouterr() == ("", "")
        assert all(library.get_verbosity() == library.INFO for library in libraries)
        assert all(library.is_progress_bar_enabled() for library in libraries)
    finally:
        for library in libraries:
            library.set_verbosity_error()
            library.disable_progress_bar()
