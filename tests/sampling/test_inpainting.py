"""Inpainting, with ordinary and with inpainting models: the pictures of diffusers' inpainting pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    AutoPipelineForInpainting,
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
)
from PIL import Image

from finetune.adapters import ControlNet
from finetune.backbones import Backbone
from finetune.config import ControlNetSection
from finetune.errors import ConfigError
from finetune.formats import write_controlnet
from finetune.sampling import ControlSpec, Sampler
from finetune.sampling.schedulers import make_scheduler
from tests.sampling.test_sampler import difference
from tests.tiny import Family, load_state

WIDTH, HEIGHT = SIZE = 40, 32
PAINT_ALL: dict[str, Any] = {
    "image": Image.new("RGB", SIZE, (128, 128, 128)),
    "mask_image": Image.new("L", SIZE, 255),
    "strength": 1.0,
    "height": HEIGHT,
    "width": WIDTH,
}


def certain(vae: Any) -> None:
    """Makes the posterior of all latents its mean: diffusers draws from it."""
    convolution = vae.quant_conv
    convolution.weight.data[4:] = 0
    convolution.bias.data[4:] = -60  # logarithm of the variance


@pytest.fixture
def plain(inpainting: Backbone, inpainting_models: dict[str, Path], family: Family) -> Any:
    """The same model in a pipeline of diffusers' own."""
    pipeline: Any = DiffusionPipeline.from_pretrained(inpainting_models[family])
    for vae in (pipeline.vae, inpainting.vae):
        certain(vae)
    return pipeline


def settled(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    return pipeline


def noise(seed: int) -> torch.Tensor:
    return torch.randn(1, 4, HEIGHT // 4, WIDTH // 4, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("guidance", [1.0, 6.0])
def test_is_diffusers_inpainting_pipeline(inpainting: Backbone, plain: Any, guidance: float) -> None:
    prompts, seeds = ["a red cat", "a dog on snow"], [11, 5]
    settings: dict[str, Any] = {"steps": 4, "guidance": guidance, "scheduler": "ddim", "size": SIZE}
    ours = Sampler(inpainting)(prompts, seed=seeds, negative="a hat", **settings)
    theirs = settled(plain)(
        prompts,
        negative_prompt=["a hat"] * 2,
        num_inference_steps=4,
        guidance_scale=guidance,
        latents=torch.cat([noise(seed) for seed in seeds]),
        **PAINT_ALL,
    ).images
    for sample, image in zip(ours, theirs, strict=True):
        assert difference(sample.image, image) <= 1
    assert difference(ours[0].image, ours[1].image) > 1


def test_a_controlnet_of_the_ordinary_model_fits(
    inpainting: Backbone, plain: Any, backbone: Backbone, family: Family, tmp_path: Path
) -> None:
    adapter = ControlNet(backbone, ControlNetSection())
    draws = torch.Generator().manual_seed(7)
    load_state(
        adapter,
        {name: t + 0.2 * torch.randn(t.shape, generator=draws) for name, t in adapter.state().items()},
    )
    write_controlnet(tmp_path, adapter, {})
    control = Image.effect_noise(SIZE, 90).convert("RGB")
    sampler = Sampler(inpainting)
    settings: dict[str, Any] = {"seed": 3, "steps": 3, "guidance": 3.0, "scheduler": "ddim"}
    alone = sampler("a cat", size=SIZE, **settings)[0]
    sampler.add_controlnet(ControlSpec(tmp_path, scale=0.7))
    ours = sampler("a cat", control_images=control, **settings)[0]
    kind: Any = (
        StableDiffusionXLControlNetInpaintPipeline
        if family == "sdxl"
        else StableDiffusionControlNetInpaintPipeline
    )
    pipeline = settled(kind(**plain.components, controlnet=ControlNetModel.from_pretrained(tmp_path)))
    theirs = pipeline(
        "a cat",
        control_image=control,
        num_inference_steps=3,
        guidance_scale=3.0,
        controlnet_conditioning_scale=0.7,
        latents=noise(3),
        **PAINT_ALL,
    ).images[0]
    assert difference(ours.image, theirs) <= 1 < difference(ours.image, alone.image)


# --- with a mask -------------------------------------------------------------------------------------


def scene(seed: int = 1) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def hole(*box: int) -> Image.Image:
    mask = Image.new("L", SIZE, 0)
    mask.paste(255, box or (9, 6, 31, 22))
    return mask


INSIDE = np.asarray(hole()) > 0


def both(kind: str, model: Backbone, folder: Path, strength: float, scheduler: str) -> tuple[Any, Any]:
    """Our pictures and those of diffusers' inpainting pipeline."""
    prompts, seeds = ["a red cat", "a dog on snow"], [11, 5]
    inits = [scene(1), scene(2)]
    ours = Sampler(model)(
        prompts,
        init=inits,
        mask=hole(),
        strength=strength,
        seed=seeds,
        negative="a hat",
        steps=6,
        guidance=4.0,
        scheduler=scheduler,
    )
    pipeline: Any = AutoPipelineForInpainting.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler(scheduler, pipeline.scheduler)
    theirs = [
        pipeline(
            prompt,
            negative_prompt="a hat",
            image=init,
            mask_image=hole(),
            strength=strength,
            height=HEIGHT,
            width=WIDTH,
            num_inference_steps=6,
            guidance_scale=4.0,
            generator=torch.Generator().manual_seed(seed),
        ).images[0]
        for prompt, init, seed in zip(prompts, inits, seeds, strict=True)
    ]
    return ours, theirs


@pytest.mark.parametrize(
    ("strength", "scheduler"), [(1.0, "ddim"), (0.6, "dpm++"), (0.99, "euler"), (0.5, "heun"), (1.0, "pndm")]
)
@pytest.mark.parametrize("kind", ["ordinary", "inpainting"])
def test_repaints_as_diffusers_does(
    kind: str,
    loaded: dict[str, Backbone],
    loaded_inpainting: dict[str, Backbone],
    tiny_models: dict[str, Path],
    inpainting_models: dict[str, Path],
    family: Family,
    strength: float,
    scheduler: str,
) -> None:
    """An ordinary UNet gets what is kept put back after each step, an inpainting UNet is told of it."""
    models, folders = (loaded, tiny_models) if kind == "ordinary" else (loaded_inpainting, inpainting_models)
    ours, theirs = both(kind, models[family], folders[family], strength, scheduler)
    for sample, image, init in zip(ours, theirs, (scene(1), scene(2)), strict=True):
        mine, other, before = (np.asarray(p, dtype=int) for p in (sample.image, image, init))
        assert abs(mine - other)[INSIDE].max() <= 1
        assert (mine == before)[~INSIDE].all()
        assert abs(mine - before)[INSIDE].max() > 20
    assert ours[0].settings.strength == strength


def test_a_mask_is_where_it_is_white(loaded: dict[str, Backbone]) -> None:
    """Gray counts as the nearer of black and white, and masks are resized with their picture."""
    sampler, init = Sampler(loaded["sd1"]), scene()
    settings: dict[str, Any] = {"steps": 2, "guidance": 1, "scheduler": "ddim"}
    (plain,) = sampler("a cat", init=init, mask=hole(), **settings)
    assert plain.settings.strength == 1
    assert plain.notes == ("Where the mask is black, the pixels are those of the initial picture.",)
    assert set(plain.info()) >= {"init", "mask"}
    grays = hole().point(lambda value: 128 if value else 127)
    twice = hole().resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.NEAREST)
    for mask in (grays, twice, hole().convert("RGB")):
        (again,) = sampler("a cat", init=init, mask=mask, **settings)
        assert difference(again.image, plain.image) == 0


def test_outpainting_is_a_larger_canvas_with_the_new_part_masked(loaded: dict[str, Backbone]) -> None:
    sampler, init = Sampler(loaded["sd1"]), scene()
    settings: dict[str, Any] = {"steps": 3, "guidance": 1, "scheduler": "ddim"}
    (wide,) = sampler("a cat", init=init, outpaint="left=16,bottom=8", **settings)
    assert wide.image.size == (WIDTH + 16, HEIGHT + 8)
    assert difference(wide.image.crop((16, 0, 16 + WIDTH, HEIGHT)), init) == 0
    assert wide.notes == ("Inside of what is added, the pixels are those of the initial picture.",)
    assert wide.info()["outpaint"] == {"left": 16, "bottom": 8}
    # The same by hand: the edges continued, and a mask over what is new.
    pixels = np.pad(np.asarray(init), ((0, 8), (16, 0), (0, 0)), mode="edge")
    mask = Image.new("L", wide.image.size, 255)
    mask.paste(0, (16, 0, 16 + WIDTH, HEIGHT))
    (by_hand,) = sampler("a cat", init=Image.fromarray(pixels), mask=mask, size=mask.size, **settings)
    assert difference(wide.image, by_hand.image) == 0
    # A mask of the picture is enlarged with it.
    (more,) = sampler("a cat", init=init, mask=hole(), outpaint={"left": 16, "bottom": 8}, **settings)
    kept = np.pad(INSIDE, ((0, 8), (16, 0)), constant_values=True)
    assert (np.asarray(more.image) == pixels)[~kept].all()
    assert difference(more.image.crop((25, 6, 47, 22)), init.crop((9, 6, 31, 22))) > 20


def test_what_cannot_be_repainted_is_told(loaded: dict[str, Backbone]) -> None:
    sampler = Sampler(loaded["sd1"])
    with pytest.raises(ConfigError, match="`mask` has no effect without an initial picture"):
        sampler("a cat", mask=hole())
    with pytest.raises(ConfigError, match="`outpaint` has no effect without an initial picture"):
        sampler("a cat", outpaint="left=8")
    with pytest.raises(ConfigError, match="no white part that is 4 pixels wide"):
        sampler("a cat", init=scene(), mask=hole(9, 9, 11, 11))
    with pytest.raises(ConfigError, match="A mask is 32x40 pixels"):
        sampler("a cat", init=scene(), mask=hole().transpose(Image.Transpose.ROTATE_90))
    for wrong in ("left", "left=9", "up=8", "left=-8", {"left": 4.5}):
        with pytest.raises(ConfigError, match="`outpaint` cannot be"):
            sampler("a cat", init=scene(), outpaint=wrong)  # type: ignore[arg-type]
