"""Families told from configurations alone."""

from __future__ import annotations

from typing import Any

import pytest

from finetune.backbones.families import family_of
from finetune.errors import ModelError

UNET: dict[str, Any] = {"in_channels": 4, "out_channels": 4, "cross_attention_dim": 768}


def test_latents_may_have_any_number_of_channels() -> None:
    assert family_of({}, UNET | {"in_channels": 8, "out_channels": 8}, "storybook") == "sd1"


def test_a_mask_and_a_masked_picture_make_an_inpainting_model_of_the_same_family() -> None:
    assert family_of({}, UNET | {"in_channels": 9}, "somewhere") == "sd1"


@pytest.mark.parametrize("odd", [{"out_channels": "x"}, {"out_channels": None}, {"in_channels": [4]}])
def test_channels_must_be_numbers(odd: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="not numbers"):
        family_of({}, UNET | odd, "somewhere")


@pytest.mark.parametrize(("channels", "kind"), [(8, "editing"), (7, "upscaler"), (5, "depth")])
def test_a_unet_that_takes_more_than_latents_is_refused(channels: int, kind: str) -> None:
    with pytest.raises(ModelError, match=f"{kind}.*takes {channels} channels, not 4"):
        family_of({}, UNET | {"in_channels": channels}, "somewhere")
