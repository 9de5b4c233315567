"""Tests that need a GPU; `make gpu` runs them, and without a GPU all are skipped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from safetensors.torch import load_file
from torch.nn.functional import conv2d

from finetune.adapters import LoRA
from finetune.backbones import load_backbone
from finetune.backbones.precision import PRECISIONS
from finetune.config import LoRASection, ModelSection, OptimizerSection
from finetune.config.model import Quantization
from finetune.diffusion.batch import moved
from finetune.kernels import attention, quantized_layers, swapped, tf32
from finetune.recipes import RECIPES, build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import assemble, run
from finetune.sampling import Sampler
from finetune.training import RunFolder
from finetune.training.optimizers import make_optimizer

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.usefixtures("here"),
]

SMALL = (
    *("training.steps=4", "training.batch_size=2", "training.accumulation=1", "training.checkpoint_every=2"),
    *("preview.every=2", "preview.num=1", "preview.steps=2", "optimizer.warmup_steps=0"),
)
OWN = {
    "lora": ("adapter.rank=2", "adapter.text_encoder=true"),
    "distill": ("adapter.rank=2",),
    "dreambooth": ("data.class_prompt=a cat", "data.num_class_images=2", "training.ema=true"),
    "full": ("training.ema=true",),
    "controlnet": ("data.preprocess=grayscale",),
    "embedding": (),
    "pretrain": (
        *("data.resolution=32", "autoencoder.steps=2", "architecture.autoencoder_channels=[16, 32]"),
        *("architecture.unet_channels=[16, 32]", "architecture.text_width=32"),
    ),
}


def train(kind: str, model: Path, pictures: Path, *changes: str, resume: bool = False) -> Path:
    given = {c.partition("=")[0]: c for c in (*SMALL, *OWN[kind], *changes)}
    settings = [
        Setting(f"data.{RECIPES[kind].folder_field}", pictures, "test"),
        *map(parse_set, given.values()),
    ]
    if "model.name" not in RECIPES[kind].unused:
        settings.append(Setting("model.name", str(model), "test"))
    return run(build(kind, settings), resume=resume, tell=lambda line: None).folder


def weights(folder: Path, step: int = 4) -> dict[str, torch.Tensor]:
    return load_file(folder / f"checkpoints/step-{step:06d}/weights.safetensors")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("kind", RECIPES)
def test_every_recipe_trains(kind: str, precision: str, tiny_folder: Path, pictures: Path) -> None:
    folder = train(kind, tiny_folder, pictures, f"training.precision={precision}")
    assert all(torch.isfinite(weight).all() for weight in weights(folder).values())
    assert (folder / RECIPES[kind].finished_by).is_file()
    assert (folder / "samples/step-000002.png").is_file()


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes CUDA add in the same order each time; by default it does not, resumed or not."""
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == ":4096:8", "make gpu sets it"
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw8bit", "paged_adamw8bit"])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.usefixtures("deterministic")
def test_a_resumed_run_ends_in_the_same_bytes(
    optimizer: str, precision: str, tiny_models: dict[str, Path], pictures: Path
) -> None:
    changes = (f"optimizer.name={optimizer}", f"training.precision={precision}")
    folder = train("full", tiny_models["sd1"], pictures, *changes)
    whole = weights(folder)
    # As if it had been killed after step 2.
    shutil.rmtree(folder / "checkpoints/step-000004")
    shutil.rmtree(folder / "model")
    again = train("full", tiny_models["sd1"], pictures, *changes, resume=True)
    assert again == folder
    for name, value in whole.items():
        assert torch.equal(weights(folder)[name], value), name


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_what_one_does(here: Path, tiny_models: dict[str, Path], pictures: Path) -> None:
    # Sums are added in another order. AdamW's first steps go by a gradient's sign, which is chance for the
    # smallest; with this eps small gradients make small steps.
    eps = "optimizer.eps=1e-4"
    one = train("lora", tiny_models["sd1"], pictures, "training.precision=fp32", "output.dir=one", eps)
    settings = {c.partition("=")[0]: c for c in (*SMALL, *OWN["lora"], eps)} | {"b": "training.batch_size=1"}
    settings.pop("training.batch_size")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "finetune", "lora",
               "--instance-dir", str(pictures), "--model", str(tiny_models["sd1"]), "--precision", "fp32",
               "--output-dir", "two"]  # fmt: skip
    flags = [part for change in settings.values() for part in ("--set", change)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([*command, *flags], cwd=here, env=environment, check=True)
    for name, value in weights(one).items():
        torch.testing.assert_close(weights(here / "two")[name], value, rtol=0, atol=1e-6, msg=name)


def test_the_state_of_a_large_layer_is_paged() -> None:
    layer = torch.nn.Linear(400, 400, device="cuda")  # bitsandbytes pages from 100,000 values up
    optimizer = make_optimizer(
        [{"params": list(layer.parameters())}], OptimizerSection(name="paged_adamw8bit")
    )
    layer(torch.ones(1, 400, device="cuda")).sum().backward()
    optimizer.step()
    assert optimizer.state[layer.weight]["state1"].is_paged


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_the_untrained_prediction_is_in_the_precision_of_training(
    precision: str, tiny_models: dict[str, Path]
) -> None:
    dtype = PRECISIONS[precision]
    backbone = load_backbone(ModelSection(name=str(tiny_models["sd1"])))
    adapter = LoRA(backbone, LoRASection(rank=2))  # untrained: both predict the same
    conditioning = backbone.conditioning(["a cat", "a red dog"])
    backbone.to("cuda", dtype)
    noisy = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).cuda()
    inputs = (noisy, torch.tensor([10, 700], device="cuda"), conditioning.to(noisy.device))
    with torch.no_grad(), torch.autocast("cuda", dtype):
        trained = adapter(*inputs)
    with torch.no_grad():
        assert torch.equal(adapter.predict_untrained(*inputs), trained)


needs_xformers = pytest.mark.skipif(find_spec("xformers") is None, reason="needs xformers")
ATTENTIONS = ["sdpa", "flash", pytest.param("xformers", marks=needs_xformers)]
AMPERE = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_is_right_however_it_is_computed(name: str) -> None:
    shape = (2, 4096, 320)  # the first of SD 1.5 at 512 px, with 8 heads of 40
    layer = Attention(query_dim=320, heads=8, dim_head=40).cuda()
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).cuda().requires_grad_()
    layer(x).square().sum().backward()
    exact, x.grad = x.grad, None
    with swapped(attention(layer, name)), torch.autocast("cuda", torch.float16):
        layer(x).float().square().sum().backward()
    assert (x.grad - exact).norm() < 0.01 * exact.norm()  # type: ignore[operator]  # fp16 has 3 digits


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "change",
    [
        "training.attention=flash",
        pytest.param("training.attention=xformers", marks=needs_xformers),
        pytest.param(
            "training.compile=true",
            marks=[
                pytest.mark.skipif(find_spec("triton") is None, reason="needs Triton"),
                pytest.mark.filterwarnings("ignore"),  # those of PyTorch about its own compiler
            ],
        ),
    ],
)
def test_a_faster_run_has_the_same_losses(change: str, tiny_models: dict[str, Path], pictures: Path) -> None:
    common = ("training.precision=bf16", "training.log_every=1")
    plain = train("lora", tiny_models["sd1"], pictures, *common, "training.attention=sdpa")
    fast = train("lora", tiny_models["sd1"], pictures, *common, change)
    assert losses(fast) == pytest.approx(losses(plain), rel=0.02)


@pytest.mark.skipif(not AMPERE, reason="needs a GPU from Ampere on")
def test_tf32_rounds_only_where_it_is_on() -> None:
    drawn = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 512, 512, generator=drawn).cuda()
    picture, kernel = (
        torch.randn(shape, generator=drawn).cuda() for shape in ((2, 64, 32, 32), (64, 64, 3, 3))
    )

    def errors(on: bool) -> tuple[float, float]:
        pairs = ((torch.matmul, a, b), (conv2d, picture, kernel))
        with tf32(on):
            off = [compute(x, y) / compute(x.double(), y.double()) - 1 for compute, x, y in pairs]
        return float(off[0].abs().median()), float(off[1].abs().median())

    assert max(errors(on=False)) < 1e-6  # fp32 has 24 bits
    assert errors(on=True)[0] > 1e-5  # TF32 has 11; which convolutions use it is cuDNN's choice


def test_values_arrive_on_the_gpu() -> None:
    values = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(moved(values, "cuda").cpu(), values)
    assert moved(moved(values, "cuda"), "cuda").device.type == "cuda"


def test_pictures_are_those_of_the_cpu(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # TF32 convolutions would round their inputs to ten bits.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    pixels = []
    for device in ("cpu", "cuda"):
        sampler = Sampler.load(str(tiny_folder), precision="fp32", device=device)
        pixels.append(np.asarray(sampler("a red cat", steps=4, seed=3)[0].image, dtype=np.int16))
    # Sums are added in another order, which makes a difference of a level or two out of 255.
    assert np.abs(pixels[0] - pixels[1]).max() <= 3


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_rounded_weights_are_those_of_the_cpu(kind: Quantization, tiny_folder: Path, pictures: Path) -> None:
    backbone = load_backbone(ModelSection(name=str(tiny_folder), quantize=kind))
    layers = list(quantized_layers(backbone.unet))
    before = [layer.weight for layer in layers]
    backbone.to("cuda", torch.float16)
    for layer, weight in zip(layers, before, strict=True):
        torch.testing.assert_close(layer.weight.cpu(), weight)
    folder = train("lora", tiny_folder, pictures, f"model.quantize={kind}", "adapter.conv_rank=2")
    assert (folder / "pytorch_lora_weights.safetensors").is_file()


def test_frozen_encoders_leave_the_gpu(tiny_models: dict[str, Path], pictures: Path) -> None:
    settings = [
        Setting("model.name", str(tiny_models["sdxl"]), "test"),
        Setting("data.instance_dir", pictures, "test"),
    ]
    this = assemble(build("lora", settings), RunFolder(Path("run")))
    this.backbone.to(this.trainer.accelerator.device)
    this.source.prepare()
    before = torch.cuda.memory_allocated()
    this.backbone.free_encoders()
    assert torch.cuda.memory_allocated() < before
    assert {p.device.type for p in this.backbone.vae.parameters()} == {"cpu"}


def test_an_inpainting_unet_sees_the_same_bits_wherever_the_vae_waits(
    inpainting_models: dict[str, Path],
) -> None:
    seen: list[torch.Tensor] = []
    for freed in (False, True):
        backbone = load_backbone(ModelSection(name=str(inpainting_models["sd1"]))).to("cuda")
        told = backbone.conditioning(["a cat"])
        told = replace(told, hidden=backbone.encode_text(backbone.tokenize(["a cat"]))[0])
        if freed:
            backbone.free_encoders()
        home = next(backbone.vae.parameters()).device
        backbone.unet.conv_in.register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
        backbone.predict(torch.zeros(1, 4, 8, 8, device="cuda"), torch.tensor([5], device="cuda"), told)
        assert next(backbone.vae.parameters()).device == home
    assert torch.equal(*seen)
