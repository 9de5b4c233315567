"""LoRAs trained and sampled on a quantized model, and what refuses one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from finetune.adapters import LoRA
from finetune.adapters.algorithms.difference import Difference
from finetune.adapters.weights import LoRAWeights
from finetune.backbones import Backbone, load_backbone, load_stored
from finetune.cli import main
from finetune.config import ModelSection
from finetune.errors import ConfigError
from finetune.formats import apply_lora
from finetune.kernels import quantized_layers
from finetune.recipes.model import model_of
from finetune.recipes.run import Run, run
from finetune.sampling.sampler import Sampler
from tests.battery.cases import Case, Trained, put_together, recipe
from tests.battery.test_battery import question
from tests.sampling.test_sampler import difference

CASES = (
    Case("qlora", "lora", ("model.quantize=nf4", "adapter.conv_rank=2", "adapter.targets=all")),
    Case("dora", "lora", ("model.quantize=int8", "adapter.dora=true")),
    Case("distill", "distill", ("model.quantize=int8", "training.gradient_checkpointing=true")),
    Case("embedding", "embedding", ("model.quantize=nf4", "training.precision=bf16")),
)
Output = pytest.CaptureFixture[str]
one_family = pytest.mark.parametrize("family", ["sd1"])


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def model(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["sd1"]


@pytest.fixture(scope="module")
def trained(case: Case, model: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    place = tmp_path_factory.mktemp("trained")
    return Trained.of(put_together(case, model, pictures, place / "run"))


def twin(this: Run) -> Backbone:
    """A plain model with the weights that a quantized one computes with."""
    plain = load_backbone(ModelSection(name=this.backbone.name))
    made = load_stored(ModelSection(name=this.backbone.name, quantize=this.recipe.model.quantize))
    for name, layer in made.unet.named_modules():
        if layer in set(quantized_layers(made.unet)):
            plain.unet.get_submodule(name).weight.data = layer.weight
    return plain


def test_it_begins_as_the_model_with_rounded_weights(case: Case, trained: Trained) -> None:
    with trained.untrained() as this, torch.no_grad():
        plain, (noisy, steps, _) = twin(this), question(this, ["a cat", "a dog"])
        expected = plain.predict(noisy, steps, plain.conditioning(["a cat", "a dog"]))
        given = this.adapter.eval()(noisy, steps, this.backbone.conditioning(["a cat", "a dog"]))
        error = (given - expected).norm() / expected.norm()
    assert error < (1e-4 if this.backbone.dtype == torch.float32 else 0.02)


def test_training_moves_what_is_trained_and_nothing_else(trained: Trained) -> None:
    assert all(torch.equal(parameter, old) for parameter, old in trained.base)
    assert any(parameter.dtype == torch.uint8 for parameter, _ in trained.base)
    moved = [name for name in trained.before if not torch.equal(trained.before[name], trained.after[name])]
    assert len(moved) > 0.75 * len(trained.before)


def test_resuming_gives_the_same_bits(
    case: Case, model: Path, pictures: Path, here: Path, trained: Trained
) -> None:
    resumed = put_together(case, model, pictures, here / "run")
    for step in (1, 2):
        shutil.copytree(trained.run.folder.checkpoint(step), resumed.folder.checkpoint(step))
    assert resumed.trainer.resume() and resumed.trainer.step == 2
    resumed.trainer.run()
    state = resumed.adapter.state()
    assert state.keys() == trained.after.keys()
    assert all(torch.equal(tensor, trained.after[name]) for name, tensor in state.items())


@one_family
def test_gradients_are_those_of_a_plain_model_with_rounded_weights(
    family: str, tiny_folder: Path, pictures: Path, here: Path
) -> None:
    this = put_together(CASES[0], tiny_folder, pictures, here / "run")
    plain = twin(this)
    other = LoRA(plain, this.recipe.adapter, seed=this.recipe.training.seed)  # type: ignore[arg-type]
    batch = next(iter(this.source.batches(range(2))))
    found = []
    for adapter in (this.adapter, other):
        adapter.train()
        this.trainer.objective(adapter, batch).mean().backward()
        found.append({name: p.grad for name, p in adapter.trained().items()})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[1].items():
        torch.testing.assert_close(found[0][name], gradient, rtol=1e-3, atol=1e-5)
    assert any(g.any() for g in found[1].values())


@one_family
def test_what_is_exported_is_a_plain_lora(family: str, tiny_folder: Path, pictures: Path, here: Path) -> None:
    files = []
    for quantize in ("none", "nf4"):
        changes = (f"model.quantize={quantize}", "training.steps=1", f"output.dir={here / quantize}")
        folder = run(recipe(CASES[0], tiny_folder, pictures, *changes), tell=lambda line: None).folder
        files.append({k: t.shape for k, t in load_file(folder / "pytorch_lora_weights.safetensors").items()})
    assert files[0] == files[1]
    # How a model was held is not which model it is, so sampling and exports take the plain one.
    section = model_of(folder)
    assert section is not None and section.quantize == "none"
    assert main(["export", str(folder), "--to", "merged", "-o", "merged"]) == 0
    merged = load_file(here / "merged" / "unet" / "diffusion_pytorch_model.safetensors")
    assert merged.keys() == load_file(tiny_folder / "unet" / "diffusion_pytorch_model.safetensors").keys()
    for source in (folder, folder / "checkpoints" / "step-000001"):
        assert main(["export", str(source), "--to", "kohya", "-o", f"{source.name}.safetensors"]) == 0
    one, other = (load_file(f"{name}.safetensors") for name in (folder.name, "step-000001"))
    assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@one_family
def test_loras_stay_beside_rounded_weights_and_the_picture_says_so(
    family: str, tiny_folder: Path, here: Path, capsys: Output
) -> None:
    from tests.sampling.test_loras import peft_lora

    lora = peft_lora(tiny_folder, here / "runs" / "mine", 1)
    flags = ["--model", str(tiny_folder), "--steps", "3"]
    own = ["--set", "model.quantize=int8", "--lora", f"{lora}:0.7"]
    assert main(["sample", "a cat", *flags, *own, "--output-dir", "first"]) == 0
    assert "int8: the UNet takes" in capsys.readouterr().out
    with Image.open("first/a-cat-0.png") as made:
        assert json.loads(made.text["finetune"])["samples"][0]["quantize"] == "int8"  # type: ignore[attr-defined]
        pixels = np.asarray(made)
    assert main(["sample", "--from", "first/a-cat-0.png", *flags[:2], "--output-dir", "again"]) == 0
    assert np.array_equal(np.asarray(Image.open("again/a-cat-0.png")), pixels)
    section = ModelSection(name=str(tiny_folder), quantize="int8")
    sampler = Sampler.load(section)
    without = sampler("a cat", steps=3)[0].image
    sampler.add_lora(lora, 0.7)
    assert difference(sampler("a cat", steps=3)[0].image, Image.fromarray(pixels)) <= 1
    assert difference(without, Image.fromarray(pixels)) > 1
    applied = sampler._beside[0]
    with pytest.raises(ConfigError, match="cannot be merged into quantized weights"):
        applied.merge()


@one_family
def test_a_full_difference_is_refused_beside_rounded_weights(family: str, tiny_folder: Path) -> None:
    made = load_stored(ModelSection(name=str(tiny_folder), quantize="nf4"))
    name, layer = next((n, part) for n, part in made.unet.named_modules() if n.endswith("attn1.to_q"))
    weights = LoRAWeights({("unet", name): Difference(torch.ones(layer.weight.shape), 1.0)})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="no product of two matrices"):
        apply_lora(made, weights)


@pytest.mark.parametrize(
    "command",
    [
        "dreambooth --instance-dir PICTURES",
        "full --data-dir PICTURES",
        "controlnet --data-dir PICTURES",
        "pretrain --data-dir PICTURES",
        "export PICTURES --to merged -o out",
        "merge PICTURES --into-model --output out",
        "extract PICTURES --output out.safetensors",
        "diff PICTURES PICTURES",
    ],
)
def test_what_needs_the_weights_refuses_before_it_looks_for_a_model(
    command: str, pictures: Path, here: Path, capsys: Output
) -> None:
    words = [str(pictures) if word == "PICTURES" else word for word in command.split()]
    assert main([*words, "--set", "model.quantize=nf4"]) == 2
    said = capsys.readouterr().err
    assert "--set model.quantize=nf4" in said and "for sampling" in said
    assert list(here.iterdir()) == []
