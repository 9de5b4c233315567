"""The sampler against plain diffusers pipelines, and what it leaves untouched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image

from finetune.backbones import Backbone
from finetune.config.samplers import SAMPLERS
from finetune.errors import ConfigError, FinetuneError
from finetune.kernels import packed
from finetune.sampling.placement import plain_layers
from finetune.sampling.sampler import Sampler
from finetune.sampling.schedulers import make_scheduler

PROMPTS = ["a red cat", "a dog on snow"]


def difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of any value, of 255."""
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other).astype(int)).max())


@pytest.fixture(scope="module")
def shared(tiny_models: dict[str, Path]) -> Sampler:
    """For tests that change nothing."""
    return Sampler.load(str(tiny_models["sdxl"]))


@pytest.mark.parametrize(("guidance", "negative"), [(1.0, ""), (6.0, ""), (6.0, "a blue hat")])
def test_is_the_diffusers_pipeline(
    backbone: Backbone, tiny_folder: Path, guidance: float, negative: str
) -> None:
    """The pipeline, given the prompts as text and a seed a picture, makes the same pictures."""
    plain = DiffusionPipeline.from_pretrained(tiny_folder)
    plain.set_progress_bar_config(disable=True)
    plain.scheduler = make_scheduler("euler-a", plain.scheduler)
    expected = plain(
        PROMPTS,
        negative_prompt=[negative] * 2 if negative else None,
        num_inference_steps=4,
        guidance_scale=guidance,
        generator=[torch.Generator().manual_seed(s) for s in (11, 5)],
        height=32,
        width=40,
    ).images
    samples = Sampler(backbone)(
        PROMPTS,
        seed=[11, 5],
        negative=negative,
        steps=4,
        guidance=guidance,
        scheduler="euler-a",
        size=(40, 32),
    )
    for sample, image in zip(samples, expected, strict=True):
        assert sample.image.size == (40, 32)
        assert difference(sample.image, image) <= 1


@pytest.mark.parametrize("scheduler", list(SAMPLERS))
def test_a_picture_does_not_depend_on_its_batch(shared: Sampler, scheduler: str) -> None:
    sampler = shared
    settings: dict[str, Any] = {"steps": 2, "scheduler": scheduler, "num": 2}
    together = sampler(PROMPTS, seed=3, **settings)
    split = sampler(PROMPTS, seed=3, batch_size=1, **settings)
    assert [(s.prompt, s.seed) for s in together] == [(p, s) for p in PROMPTS for s in (3, 4)]
    alone = sampler(PROMPTS[1], seed=4, **(settings | {"num": 1}))[0]
    for one, other in zip(together, split, strict=True):
        assert difference(one.image, other.image) <= 1
    assert difference(together[3].image, alone.image) <= 1
    assert difference(together[0].image, together[1].image) > 1
    assert difference(together[0].image, together[2].image) > 1


def test_leaves_everything_as_found(backbone: Backbone) -> None:
    unet, encoder = backbone.unet, backbone.text_encoders[0]
    unet.enable_gradient_checkpointing()
    unet.train().conv_in.eval()
    encoder.train()
    unet.conv_in.weight.requires_grad_(True)
    parts = [unet, backbone.vae, *backbone.text_encoders]
    modes = [module.training for part in parts for module in part.modules()]
    state = [p.clone() for p in unet.parameters()]
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with torch.enable_grad():
        Sampler(backbone)(PROMPTS, steps=2, scheduler="ddpm")
        assert torch.is_grad_enabled()
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for part in parts for module in part.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(state, unet.parameters(), strict=True))
    assert unet.conv_in.weight.requires_grad
    assert not unet._forward_hooks


def test_weights_are_packed_meanwhile_if_they_are_not_already(tiny_models: dict[str, Path]) -> None:
    sampler = Sampler.load(str(tiny_models["sd1"]))
    unet = sampler.backbone.unet
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    during: list[bool] = []
    unet.register_forward_pre_hook(lambda *_: during.append(bool(unet.conv_out.weight.isnan().all())))
    first = sampler("a cat", steps=3)[0]
    assert during == [False, True, True]  # a weight is packed when it is first used
    for name, tensor in unet.state_dict().items():
        assert torch.equal(tensor, before[name])
    with packed(plain_layers([unet])):  # as a model in training is, which a preview must leave so
        again = sampler("a cat", steps=3)[0]
        assert unet.conv_out.weight.isnan().all()
    assert torch.equal(unet.conv_out.weight, before["conv_out.weight"])
    assert difference(first.image, again.image) == 0


def test_training_mode_does_not_change_pictures(backbone: Backbone) -> None:
    for module in backbone.unet.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.5
    sampler = Sampler(backbone)
    calm = sampler(PROMPTS[0], steps=2)[0]
    backbone.unet.train()
    assert difference(sampler(PROMPTS[0], steps=2)[0].image, calm.image) == 0


@pytest.mark.parametrize(("guidance", "rows"), [(0.0, 2), (1.0, 2), (1.5, 4)])
def test_guidance_of_one_takes_half_the_work(backbone: Backbone, guidance: float, rows: int) -> None:
    seen = []
    hook = backbone.unet.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    Sampler(backbone)(PROMPTS, steps=2, guidance=guidance, scheduler="ddim")
    hook.remove()
    assert seen == [rows, rows]


def test_bf16_is_near_fp32(backbone: Backbone) -> None:
    exact = Sampler(backbone)(PROMPTS, steps=4)
    near = Sampler(backbone, precision="bf16")(PROMPTS, steps=4)
    assert [s.precision for s in (exact[0], near[0])] == ["fp32", "bf16"]
    assert 0 < max(difference(a.image, b.image) for a, b in zip(exact, near, strict=True)) < 25


def test_half_precision_weights_are_run_in_their_own(backbone: Backbone) -> None:
    backbone.to("cpu", torch.bfloat16)
    sample = Sampler(backbone)(PROMPTS[0], steps=2)[0]
    assert sample.precision == "bf16"


def test_batches_are_bounded(tiny_models: dict[str, Path]) -> None:
    seen = []
    sampler = Sampler.load(str(tiny_models["sd1"]))
    hook = sampler.backbone.unet.register_forward_pre_hook(lambda _module, args: seen.append(len(args[0])))
    steps: list[tuple[int, int]] = []
    sampler("a cat", num=33, steps=1, guidance=1, scheduler="ddim", progress=lambda *n: steps.append(n))
    assert seen == [32, 1]
    assert steps == [(1, 2), (2, 2)]
    sampler("a cat", num=3, steps=1, guidance=1, scheduler="ddim", size=(40, 32), batch_size=2)
    hook.remove()
    assert seen[2:] == [2, 1]


@pytest.mark.parametrize(("size", "most"), [(32, 32), (256, 4), (512, 1), (1024, 1)])
def test_large_pictures_go_in_small_batches(shared: Sampler, size: int, most: int) -> None:
    # One latent for 4x4 pixels.
    assert shared.most_at_once((size, size)) == most


def test_words_that_do_not_fit_are_told(backbone: Backbone) -> None:
    short, long = Sampler(backbone)(["a cat", "a cat " + "on snow " * 60 + "with a unicorn"], steps=1)
    assert short.notes == ()
    (note,) = long.notes
    assert "with a unicorn" in note


@pytest.mark.parametrize(
    "wrong",
    [{"scheduler": "eulr"}, {"steps": 0}, {"size": 30}, {"seed": [1, 2, 3]}, {"seed": [0, -1]}, {"stps": 2}],
)
def test_wrong_settings_are_refused(shared: Sampler, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        shared(PROMPTS, **wrong)


def test_wrong_precision_is_refused(tiny_models: dict[str, Path]) -> None:
    with pytest.raises(ConfigError, match="no precision named `fp8`"):
        Sampler.load(str(tiny_models["sd1"]), precision="fp8")
    with pytest.raises(ConfigError, match="The name of a model must be text"):
        Sampler.load("a\x1b[2J")


def test_a_picture_that_is_not_finite_is_an_error(tiny_models: dict[str, Path]) -> None:
    sampler = Sampler.load(str(tiny_models["sd1"]))
    sampler.backbone.unet.conv_out.weight.data.fill_(float("nan"))
    with pytest.raises(FinetuneError, match="not finite"):
        sampler(PROMPTS, steps=1)


def test_no_prompts_no_pictures(shared: Sampler) -> None:
    assert shared([]) == []
