"""Guidance of unusual models: that of plain diffusers pipelines."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from finetune.backbones import Backbone
from finetune.diffusion.batch import Conditioning
from finetune.sampling import ControlSpec, Sampler
from finetune.sampling.guidance import Guided
from finetune.sampling.schedulers import make_scheduler
from tests.sampling.test_control import picture
from tests.sampling.test_sampler import difference
from tests.tiny import Family

SETTINGS: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 4.0}


def settled(pipeline: Any) -> Any:
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    return pipeline


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_unet_that_is_told_the_guidance_scale(loaded: dict[str, Backbone], family: Family) -> None:
    """Distilled models take the scale as an embedding, and one evaluation a step."""
    backbone = copy.deepcopy(loaded[family])
    torch.manual_seed(3)
    config = {**backbone.unet.config, "time_cond_proj_dim": 32}
    backbone.unet = UNet2DConditionModel.from_config(config).eval().requires_grad_(False)
    rows: list[int] = []
    backbone.unet.register_forward_pre_hook(lambda _, given: rows.append(len(given[0])))
    sampler = Sampler(backbone)
    near, far = (
        sampler("a cat", steps=3, guidance=scale, scheduler="ddim", seed=4)[0].image for scale in (4.0, 9.0)
    )
    assert rows == [1] * 6
    theirs = settled(backbone.pipeline())("a cat", generator=torch.Generator().manual_seed(4), **SETTINGS)
    assert difference(near, theirs.images[0]) <= 1 < difference(near, far)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_controlnet_that_pools_says_nothing_about_the_negative_prompt(
    loaded: dict[str, Backbone], family: Family, tmp_path: Any
) -> None:
    """Such as ControlNet 1.1's shuffle; diffusers runs it in its guess mode."""
    backbone = loaded[family]
    torch.manual_seed(3)
    branch = ControlNetModel.from_unet(backbone.unet, conditioning_embedding_out_channels=(4, 8, 16))
    for parameter in branch.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    branch.register_to_config(global_pool_conditions=True)
    branch.save_pretrained(tmp_path)
    sampler = Sampler(backbone)
    sampler.add_controlnet(ControlSpec(tmp_path, 0.6))
    control, settings = picture(1), {"steps": 3, "guidance": 4.0, "scheduler": "ddim", "seed": 4}
    (ours,) = sampler("a cat", control_images=control, **settings)  # type: ignore[arg-type]
    pipeline = settled(backbone.pipeline([branch.eval()]))
    theirs = pipeline(
        "a cat",
        image=control,
        controlnet_conditioning_scale=0.6,
        generator=torch.Generator().manual_seed(4),
        **SETTINGS,
    )
    assert difference(ours.image, theirs.images[0]) <= 1
    sampler.controls[0].branch.register_to_config(global_pool_conditions=False)
    (other,) = sampler("a cat", control_images=control, **settings)  # type: ignore[arg-type]
    assert difference(ours.image, other.image) > 1


def test_rescaled_guidance_is_that_of_diffusers(loaded: dict[str, Backbone], family: Family) -> None:
    backbone = loaded[family]
    settings: dict[str, Any] = {
        "steps": 3,
        "guidance": 9.0,
        "negative": "ugly",
        "scheduler": "ddim",
        "seed": 4,
    }
    (ours,) = Sampler(backbone)("a cat", rescale=0.7, **settings)
    (plain,) = Sampler(backbone)("a cat", **settings)
    theirs = settled(backbone.pipeline())(
        "a cat",
        negative_prompt="ugly",
        num_inference_steps=3,
        guidance_scale=9.0,
        guidance_rescale=0.7,
        generator=torch.Generator().manual_seed(4),
    ).images[0]
    assert difference(ours.image, theirs) <= 1 < difference(ours.image, plain.image)


def test_rescaling_brings_the_deviation_back(loaded: dict[str, Backbone]) -> None:
    """By the paper's formula, with all of it rescaled: the deviation is that of the prompt's prediction."""
    backbone = loaded["sd2"]
    prompts, negatives = (backbone.conditioning([text]) for text in ("a cat", "ugly"))
    hidden = [backbone.encode_text(one.tokens)[0].detach() for one in (prompts, negatives)]  # type: ignore[arg-type]
    rows = [Conditioning(hidden=one) for one in hidden]
    latents, timestep = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor(500)
    with torch.no_grad():
        alone = Guided(backbone, rows[0], None, 1.0)(latents, timestep, (0, 1))
        rescaled = Guided(backbone, *rows, 9.0, rescale=1.0)(latents, timestep, (0, 1))
        harsh = Guided(backbone, *rows, 9.0)(latents, timestep, (0, 1))
    torch.testing.assert_close(rescaled.std(), alone.std())
    torch.testing.assert_close(rescaled / harsh, (alone.std() / harsh.std()).expand_as(harsh))
