"""What `auto` and the aliases mean."""

from __future__ import annotations

import pytest

from finetune.backbones import load_backbone, resolve_model
from finetune.backbones.resolve import location, storybook_folder
from finetune.config import ModelSection


@pytest.mark.parametrize(
    ("name", "cuda", "meaning", "said"),
    [
        ("auto", True, "stable-diffusion-v1-5/stable-diffusion-v1-5", "because this machine has a GPU"),
        ("auto", False, "storybook", "because this machine has no GPU"),
        ("storybook", True, "storybook", "bundled"),
        ("sd15", False, "stable-diffusion-v1-5/stable-diffusion-v1-5", "sd15"),
        ("sdxl", False, "stabilityai/stable-diffusion-xl-base-1.0", "sdxl"),
        ("./my/model", False, "./my/model", "./my/model"),
    ],
)
def test_names_and_reasons(name: str, cuda: bool, meaning: str, said: str) -> None:
    resolved, sentence = resolve_model(ModelSection(name=name), cuda)
    assert resolved == meaning
    assert said in sentence


def test_storybook_lies_in_the_package() -> None:
    assert location("storybook") == str(storybook_folder())
    assert storybook_folder().parts[-3:] == ("finetune", "models", "storybook")


def test_auto_must_be_resolved_first() -> None:
    with pytest.raises(ValueError, match="resolve_model"):
        load_backbone(ModelSection(name="auto"))
