"""One training step against the same step written out with diffusers and PEFT classes alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, DiffusionPipeline
from peft import LoraConfig
from PIL import Image

from finetune.adapters.lora import LoRA
from finetune.backbones import load_backbone
from finetune.config import DataSection, LoRASection, ModelSection
from finetune.data.folder import scan_folder
from finetune.data.source import PictureSource
from finetune.diffusion.objective import Objective
from finetune.diffusion.random import generator, normal, uniform
from tests.tiny import only

SEED, NUMBERS = 7, (0, 1, 2)
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(3):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a red cat {index}")
    return folder


def plain_step(
    model: Path, pictures: Path, sdxl: bool, prediction: str, state: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The step as a diffusers example would write it; only the random draws are shared.

    Returns:
        The loss, and the gradient of each LoRA parameter by its name.
    """
    pipe = DiffusionPipeline.from_pretrained(model)
    unet = pipe.unet.requires_grad_(False)
    unet.add_adapter(LoraConfig(r=4, lora_alpha=2, target_modules=TARGETS))
    lora = {n.replace(".default.", "."): p for n, p in unet.named_parameters() if "lora_" in n}
    assert {f"unet.{n}" for n in lora} == set(state)
    for name, parameter in lora.items():
        parameter.data.copy_(state[f"unet.{name}"])
    order = torch.randperm(3, generator=generator(SEED, 0, "order")).tolist()
    arrays = [np.asarray(Image.open(pictures / f"{i}.png"), dtype=np.float32) for i in range(3)]
    pixels = torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous() / 127.5 - 1
    with torch.no_grad():
        posterior = pipe.vae.encode(pixels).latent_dist
        # Rounded as in the source (contiguous, in the folder's order, scaled before the draw): a last bit
        # of the latents, or convolutions of another memory layout, are 1e-5 of some gradients in these
        # random networks. Given the same latents, both steps agree to the bit.
        scale = pipe.vae.config.scaling_factor
        mean, std = (value[order].contiguous() * scale for value in (posterior.mean, posterior.std))
        latents = mean + std * normal(SEED, NUMBERS, "latents", mean.shape[1:])
        captions = [f"a red cat {i}" for i in order]
        encoded = pipe.encode_prompt(
            captions, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )
    extra = {}
    if sdxl:
        time_ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 3)
        extra = {"added_cond_kwargs": {"text_embeds": encoded[2], "time_ids": time_ids}}
    scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    noise = normal(SEED, NUMBERS, "noise", latents.shape[1:])
    timesteps = (uniform(SEED, NUMBERS, "timestep") * 1000).long()
    noisy = scheduler.add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, timesteps) if prediction == "v_prediction" else noise
    loss = torch.nn.functional.mse_loss(unet(noisy, timesteps, encoded[0], **extra).sample, target)
    loss.backward()
    return loss, {f"unet.{n}": p.grad for n, p in lora.items() if p.grad is not None}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_loss_and_every_gradient(
    tiny_folder: Path, pictures: Path, family: str, prediction: str, tmp_path: Path
) -> None:
    model = _with_prediction(tiny_folder, tmp_path / "model", prediction)
    backbone = load_backbone(ModelSection(name=str(model)))
    adapter = LoRA(backbone, LoRASection(rank=4, alpha=2, targets=TARGETS), seed=SEED)
    with torch.no_grad():  # B is zero at the start, and so would be every gradient of A
        for index, parameter in enumerate(adapter.trained().values()):
            parameter.copy_(0.1 * normal(1, [index], "test", parameter.shape)[0])
    data = DataSection()
    source = PictureSource(scan_folder(pictures, None), backbone, data, SEED, False)
    source.prepare()

    own = Objective(backbone.scheduler, SEED)(adapter, only(source.batches(NUMBERS))).mean()
    own.backward()  # type: ignore[no-untyped-call]

    loss, gradients = plain_step(model, pictures, family == "sdxl", prediction, adapter.state())
    assert own.item() == pytest.approx(loss.item(), rel=1e-5)
    # Queries and keys of an attention over a single position have none.
    assert sum(bool(gradient.any()) for gradient in gradients.values()) >= 0.9 * len(gradients) > 32
    for name, parameter in adapter.trained().items():
        assert parameter.grad is not None
        assert (parameter.grad - gradients[name]).norm() <= 1e-5 * gradients[name].norm(), name


def _with_prediction(folder: Path, out: Path, prediction: str) -> Path:
    pipe = DiffusionPipeline.from_pretrained(folder)
    pipe.scheduler.register_to_config(prediction_type=prediction)
    pipe.save_pretrained(out)
    return out
