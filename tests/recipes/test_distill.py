"""The distill recipe from command to sample."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from finetune import Sampler
from finetune.errors import ConfigError
from finetune.recipes import build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run
from tests.battery.cases import SMALL

pytestmark = pytest.mark.usefixtures("here")


def settings(model: Path, pictures: Path, *changes: str) -> list[Setting]:
    given = [*SMALL, "training.steps=2", "adapter.rank=2", *changes]
    own = {setting.key: setting for setting in map(parse_set, given)}
    return [Setting("model.name", str(model), "x"), Setting("data.data_dir", pictures, "x"), *own.values()]


def test_the_file_says_how_to_sample_it_and_does(tiny_folder: Path, pictures: Path) -> None:
    said: list[str] = []
    folder = run(build("distill", settings(tiny_folder, pictures)), tell=said.append).folder
    assert said[-1].endswith("--scheduler lcm --steps 4 --guidance 1")
    with safe_open(folder / f"{folder.name}.safetensors", "pt") as file:
        told = file.metadata()
    assert "LCM" in told["modelspec.usage_hint"] and told["ss_huber_c"] == "0.001"
    how = {"steps": 2, "guidance": 1.0, "scheduler": "lcm"}
    pair = [Sampler.load(str(tiny_folder), loras=loras)("a cat", **how)[0].image for loras in ([], [folder])]
    assert pair[0].tobytes() != pair[1].tobytes()


@pytest.mark.parametrize("family", ["sdxl"])
def test_where_there_is_no_prompt_sdxl_gets_zeros(family: str, tiny_folder: Path, pictures: Path) -> None:
    from finetune.recipes.run import assemble
    from finetune.training import RunFolder

    this = assemble(build("distill", settings(tiny_folder, pictures)), RunFolder(Path("r")))
    empty = this.trainer.objective.empty  # type: ignore[attr-defined]
    assert not empty.hidden.any() and not empty.pooled.any()
    assert empty.hidden.shape == (1, 77, this.backbone.unet.config.cross_attention_dim)


@pytest.mark.parametrize("family", ["sd1"])
def test_the_teacher_is_the_model_without_the_lora(family: str, tiny_folder: Path, pictures: Path) -> None:
    from finetune.recipes.run import assemble, prepare
    from finetune.training import RunFolder

    this = assemble(build("distill", settings(tiny_folder, pictures)), RunFolder(Path("r")))
    prepare(this)
    (batch,) = this.source.batches(range(2))
    noisy, steps = batch.latents, torch.tensor([19, 999])
    before = this.backbone.predict(noisy, steps, batch.conditioning)
    for parameter in this.adapter.trained().values():
        parameter.data += 0.3
    after = this.backbone.predict(noisy, steps, batch.conditioning)
    assert not torch.equal(after, before)
    assert torch.equal(this.adapter.predict_untrained(noisy, steps, batch.conditioning), before)


@pytest.mark.parametrize("change", ["objective.weighting=min_snr", "adapter.text_encoder=true"])
def test_what_has_no_effect_is_refused(change: str, tiny_models: dict[str, Path], pictures: Path) -> None:
    with pytest.raises(ConfigError, match="has no effect on distill"):
        build("distill", settings(tiny_models["sd1"], pictures, change))


@pytest.mark.parametrize("family", ["sd1"])
def test_an_inpainting_model_is_distilled_too(
    family: str, inpainting_models: dict[str, Path], pictures: Path
) -> None:
    folder = run(build("distill", settings(inpainting_models[family], pictures)), tell=lambda _: None).folder
    assert (folder / "pytorch_lora_weights.safetensors").is_file()
