"""The bundled structures are those of the published models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

import finetune.backbones
from finetune.backbones.families import family_of, refuse_other_pipelines

PUBLISHED = Path(finetune.backbones.__file__).parent / "published"

# Parameters of the published weights: Rombach et al. 2022 and Podell et al. 2023 give them rounded
# (860 M, 866 M, 2.6 B; text encoders 123 M, 340 M, 123 M + 695 M; VAE 83.7 M).
COUNTS = {
    "sd1": {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
    "sd2": {"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
    "sdxl": {
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
}


def build(folder: Path) -> Any:
    config = json.loads((folder / "config.json").read_text())
    if folder.name == "unet":
        return UNet2DConditionModel.from_config(config)
    if folder.name == "vae":
        return AutoencoderKL.from_config(config)
    kind = CLIPTextModelWithProjection if folder.name == "text_encoder_2" else CLIPTextModel
    return kind(CLIPTextConfig(**config))


@pytest.mark.parametrize("family", COUNTS)
def test_structures_have_the_published_sizes(family: str) -> None:
    with torch.device("meta"):
        counts = {
            part: sum(p.numel() for p in build(PUBLISHED / family / part).parameters())
            for part in COUNTS[family]
        }
    assert counts == COUNTS[family]


@pytest.mark.parametrize("family", COUNTS)
def test_structures_are_recognised_as_their_family(family: str) -> None:
    index = json.loads((PUBLISHED / family / "model_index.json").read_text())
    refuse_other_pipelines(index, family)
    unet = json.loads((PUBLISHED / family / "unet" / "config.json").read_text())
    assert family_of(index, unet, family) == family
