"""The sampler with LoRAs from files, against plain diffusers pipelines with the same files."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import get_peft_model_state_dict

from finetune.cli import main
from finetune.errors import ConfigError, WeightsError
from finetune.formats import read_lora
from finetune.sampling.recorded import read_record
from finetune.sampling.sampler import Sampler
from finetune.sampling.schedulers import make_scheduler
from tests.sampling.test_sampler import difference

PROMPT = "a red cat"


def peft_lora(model: Path, folder: Path, seed: int, dora: bool = False) -> Path:
    """A random LoRA of the UNet, made and written by PEFT and diffusers alone."""
    pipeline = DiffusionPipeline.from_pretrained(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v", "to_out.0"], use_dora=dora)
        pipeline.unet.add_adapter(config)
        for name, parameter in pipeline.unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.5)
    state = get_peft_model_state_dict(pipeline.unet)
    metadata = {"unet_lora_adapter_metadata": config.to_dict()}
    type(pipeline).save_lora_weights(folder, unet_lora_layers=state, **metadata)
    return folder


@pytest.fixture(scope="module")
def model(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["sd1"]


@pytest.fixture(scope="module")
def loras(model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("loras")
    return [
        peft_lora(model, folder / "one-lora", 1),
        peft_lora(model, folder / "two-lora", 2),
        peft_lora(model, folder / "dora", 3, dora=True),
    ]


@pytest.fixture(scope="module")
def plain(model: Path, loras: list[Path]) -> Any:
    """A diffusers pipeline with all the LoRAs loaded."""
    pipeline = DiffusionPipeline.from_pretrained(model)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        for index, folder in enumerate(loras):
            pipeline.load_lora_weights(folder, adapter_name=f"lora{index}")
    return pipeline


@pytest.mark.parametrize(
    "weights", [{0: 1.0}, {0: 0.4}, {1: -0.5}, {0: 0.7, 1: 0.5}, {2: 1.0}], ids=lambda w: str(w)
)
def test_is_the_diffusers_pipeline_with_the_same_loras(
    plain: Any, model: Path, loras: list[Path], weights: dict[int, float]
) -> None:
    plain.set_adapters([f"lora{index}" for index in weights], list(weights.values()))
    generator = torch.Generator().manual_seed(3)
    expected = plain(
        PROMPT, num_inference_steps=3, guidance_scale=5.0, generator=generator, height=32, width=32
    ).images[0]
    sampler = Sampler.load(str(model), loras=[(loras[index], weight) for index, weight in weights.items()])
    sample = sampler(PROMPT, seed=3, steps=3, scheduler="ddim")[0]
    assert difference(sample.image, expected) <= 1
    bare = Sampler.load(str(model))(PROMPT, seed=3, steps=3, scheduler="ddim")[0]
    assert difference(sample.image, bare.image) > 3
    assert sample.loras == tuple((loras[index].name, weight) for index, weight in weights.items())


def test_a_loaded_lora_is_merged_and_draws_what_it_draws_beside_the_weights(
    model: Path, loras: list[Path]
) -> None:
    for chosen, merged in ((loras[:1], True), (loras[2:], True), (loras[:2], True), (loras[1:], False)):
        loaded, beside = Sampler.load(str(model), loras=chosen), Sampler.load(str(model))
        for path in chosen:
            beside.add_lora(path)
        assert any(isinstance(m, BaseTunerLayer) for m in beside.backbone.unet.modules())
        assert merged != any(isinstance(m, BaseTunerLayer) for m in loaded.backbone.unet.modules())
        assert loaded.loras == beside.loras
        pictures = [sampler(PROMPT, steps=3)[0].image for sampler in (loaded, beside)]
        assert difference(*pictures) <= 1


def test_weights_that_would_be_infinite_are_told(model: Path, loras: list[Path]) -> None:
    with pytest.raises(ConfigError, match="makes weights of the model infinite or NaN"):
        Sampler.load(str(model), loras=[(loras[0], 1e39)])


def test_weight_zero_is_off(model: Path, loras: list[Path]) -> None:
    bare = Sampler.load(str(model))(PROMPT, steps=2)[0]
    off = Sampler.load(str(model), loras=[f"{loras[0]}:0"])(PROMPT, steps=2)[0]
    assert difference(bare.image, off.image) == 0


def test_what_cannot_be_added_changes_nothing(
    model: Path, tiny_models: dict[str, Path], loras: list[Path]
) -> None:
    sampler = Sampler.load(str(tiny_models["sdxl"]))
    before = sampler(PROMPT, steps=1)[0]
    with pytest.raises(WeightsError):
        sampler.add_lora(loras[0])
    with pytest.raises(WeightsError):
        sampler.add_lora(model.parent / "nothing.safetensors")
    with pytest.raises(ConfigError):
        sampler.add_lora(loras[0], float("nan"))
    after = sampler(PROMPT, steps=1)[0]
    assert sampler.loras == []
    assert difference(before.image, after.image) == 0


def test_three_lines() -> None:
    """The import that the README shows."""
    import finetune

    assert finetune.Sampler is Sampler


def test_weights_are_changed_without_loading_again(model: Path, loras: list[Path]) -> None:
    sampler = Sampler.load(str(model))
    before = sampler(PROMPT, steps=2)[0].image.tobytes()
    for path in loras[:2]:
        sampler.add_lora(path)
    sampler.set_lora_weights([0.5, -1.0])
    made = sampler(PROMPT, steps=2)[0]
    assert made.loras == (("one-lora", 0.5), ("two-lora", -1.0))
    other = Sampler.load(str(model))
    for path, weight in zip(loras[:2], (0.5, -1.0), strict=True):
        other.add_lora(path, weight)
    assert made.image.tobytes() == other(PROMPT, steps=2)[0].image.tobytes() != before
    sampler.set_lora_weights([0.0, 0.0])
    assert sampler(PROMPT, steps=2)[0].image.tobytes() == before
    with pytest.raises(ValueError, match="zip"):
        sampler.set_lora_weights([1.0])


def test_a_plot_over_the_weight_of_one_lora(model: Path, loras: list[Path], here: Path) -> None:
    one, two, _ = map(str, loras)
    given = ["sample", PROMPT, "--model", str(model), "--size", "32", "--steps", "2", "--lora", f"{two}:0.5"]
    assert main([*given, "--lora", one, "--grid", "lora.one-lora=0,1", "--output-dir", "many"]) == 0
    made = [read_record(Path("many") / f"a-red-cat-0{n}.png").loras for n in ("", "-2")]
    assert made == [(("two-lora", 0.5), ("one-lora", weight)) for weight in (0.0, 1.0)]


HOW: dict[str, Any] = {"steps": 4, "scheduler": "ddim", "seed": 5}


def beside(model: Path, lora: Path, weight: float = 1.0) -> Sampler:
    sampler = Sampler.load(str(model))
    sampler.add_lora(lora, weight)
    return sampler


def test_weights_by_block_multiply_the_changes_of_their_layers(model: Path, loras: list[Path]) -> None:
    blocks = {"down_blocks": 0.0, "down_blocks.1.attentions.0": 2.0, "mid_block": -1.0}
    made = beside(model, loras[0], 0.7)(PROMPT, lora_blocks=blocks, **HOW)[0]
    by_hand = Sampler.load(str(model))
    changed = dict.fromkeys((0.0, 1.0, 2.0, -1.0), 0)
    for (_, name), layer in read_lora(loras[0], by_hand.backbone).layers.items():
        factor = 1.0
        for start, value in (
            ("down_blocks.", 0.0),
            ("down_blocks.1.attentions.0.", 2.0),
            ("mid_block.", -1.0),
        ):
            factor = value if name.startswith(start) else factor
        by_hand.backbone.unet.get_submodule(name).weight.data += 0.7 * factor * layer.delta()
        changed[factor] += 1
    assert all(changed.values())
    assert difference(made.image, by_hand(PROMPT, **HOW)[0].image) <= 1
    assert made.info()["lora_blocks"] == blocks


def test_loras_act_in_their_part_of_the_steps(model: Path, loras: list[Path]) -> None:
    sampler = beside(model, loras[0])
    whole = sampler(PROMPT, **HOW)[0]
    made = sampler(PROMPT, lora_steps=(0, 0.5), **HOW)[0]
    again = sampler(PROMPT, **HOW)[0]
    assert again.image.tobytes() == whole.image.tobytes() != made.image.tobytes()
    assert "lora_steps" not in whole.info() and made.info()["lora_steps"] == [0.0, 0.5]

    def off_after_the_second(
        pipeline: Any, step: int, timestep: Any, given: dict[str, Any]
    ) -> dict[str, Any]:
        if step == 1:
            pipeline.unet.disable_adapters()
        return given

    theirs = DiffusionPipeline.from_pretrained(model)
    theirs.set_progress_bar_config(disable=True)
    theirs.scheduler = make_scheduler("ddim", theirs.scheduler)
    theirs.load_lora_weights(loras[0])
    picture = theirs(
        PROMPT,
        num_inference_steps=4,
        guidance_scale=5.0,
        height=32,
        width=32,
        generator=torch.Generator().manual_seed(5),
        callback_on_step_end=off_after_the_second,
    ).images[0]
    assert difference(made.image, picture) <= 1


def test_what_loras_cannot_do_is_refused(model: Path, loras: list[Path], here: Path) -> None:
    merged = Sampler.load(str(model), loras=[loras[0]])
    with pytest.raises(ConfigError, match="merged"):
        merged(PROMPT, lora_steps=(0, 0.5), **HOW)
    with pytest.raises(ConfigError, match="no LoRA"):
        Sampler.load(str(model))(PROMPT, lora_blocks={"mid_block": 0.0}, **HOW)
    with pytest.raises(ConfigError, match="no layer mid_blok") as caught:
        beside(model, loras[0])(PROMPT, lora_blocks={"mid_blok": 0.0}, **HOW)
    assert "Did you mean mid_block" in caught.value.fix
    with pytest.raises(ConfigError, match="acts in none of 4: no step lies wholly inside"):
        beside(model, loras[0])(PROMPT, lora_steps=(0.3, 0.45), **HOW)
    with pytest.raises(ConfigError, match="in no step"):
        beside(model, loras[0])(PROMPT, lora_steps=(0.5, 0.5), **HOW)
    assert main(["sample", PROMPT, "--model", "nowhere", "--set", "sampling.lora_steps=[0, 0.5]"]) == 2
    given = ["sample", PROMPT, "--model", str(model), "--size", "32", "--steps", "2", "--lora", str(loras[0])]
    assert main([*given, "--set", "sampling.lora_blocks={mid_block: 0}", "--output-dir", "a"]) == 0
    assert main(["sample", "--from", "a/a-red-cat-0.png", *given[2:4], *given[-2:], "--output-dir", "b"]) == 0
    assert Path("a/a-red-cat-0.png").read_bytes() == Path("b/a-red-cat-0.png").read_bytes()
