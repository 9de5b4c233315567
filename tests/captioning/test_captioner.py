"""What models say, and which are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline

from finetune.captioning import load_captioner
from finetune.errors import ConfigError, ModelError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def noise(number: int) -> list[Image.Image]:
    """Pictures of different shapes."""
    draw = np.random.default_rng(0).integers
    return [Image.fromarray(draw(0, 256, (20 + i, 30, 3), dtype=np.uint8)) for i in range(number)]


def by_the_pipeline(folder: Path, image: Image.Image, name: str) -> str:
    """What transformers' own pipeline makes of a picture."""
    pipe = pipeline("image-text-to-text", model=str(folder), use_safetensors=True)
    options = {"generate_kwargs": {"do_sample": False, "max_new_tokens": 8}, "return_full_text": False}
    if name == "florence":
        return str(pipe(image, text="<DETAILED_CAPTION>", **options)[0]["generated_text"])
    content = [{"type": "image", "image": image}, {"type": "text", "text": "a red"}]
    return str(pipe(text=[{"role": "user", "content": content}], **options)[0]["generated_text"])


@pytest.mark.parametrize("name", ["florence", "llava"])
def test_as_transformers_pipeline(vision_models: dict[str, Path], name: str) -> None:
    captioner = load_captioner(
        str(vision_models[name]), prompt="a red" if name == "llava" else None, max_tokens=8
    )
    images = noise(3)
    said = [caption.text for caption in captioner(images)]
    assert all(said)
    assert said == [" ".join(by_the_pipeline(vision_models[name], i, name).split()) for i in images]


@pytest.mark.parametrize("prompt", [None, "a red"])
def test_blip_as_its_model_card_has_it(vision_models: dict[str, Path], prompt: str | None) -> None:
    folder = vision_models["blip"]
    model = AutoModelForImageTextToText.from_pretrained(folder)
    processor = AutoProcessor.from_pretrained(folder)
    images, expected = noise(3), []
    for image in images:
        inputs = processor(image, *[prompt] if prompt else [], return_tensors="pt")
        out = model.generate(**inputs, max_new_tokens=6)
        expected.append(processor.decode(out[0], skip_special_tokens=True))
    said = [caption.text for caption in load_captioner(str(folder), prompt=prompt, max_tokens=6)(images)]
    assert said == expected
    assert len(set(said)) > 1, "what is said depends on the picture"
    assert all(text.startswith(prompt or "") for text in said)


def test_a_caption_that_was_cut_is_marked(vision_models: dict[str, Path]) -> None:
    captioner = load_captioner(str(vision_models["blip"]), prompt="a red", max_tokens=2)
    assert [caption.whole for caption in captioner(noise(2))] == [False, False]
    # As if the model had nothing to add.
    bias = captioner.model.text_decoder.cls.predictions.bias
    bias[captioner.processor.tokenizer.sep_token_id] = 1e6
    assert captioner(noise(2)) == [("a red", True)] * 2


def test_a_model_that_samples_by_default_does_not(vision_models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vision_models["llava"], tmp_path / "sampling"))
    file = folder / "generation_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"do_sample": True, "temperature": 5.0}))
    expected = load_captioner(str(vision_models["llava"]), max_tokens=8)(noise(2))
    assert load_captioner(str(folder), max_tokens=8)(noise(2)) == expected


def test_half_precision(vision_models: dict[str, Path]) -> None:
    captioner = load_captioner(str(vision_models["blip"]), max_tokens=4, precision="bf16")
    assert captioner.model.dtype == torch.bfloat16
    assert captioner(noise(1))[0].text
    with pytest.raises(ConfigError, match="no precision named"):
        load_captioner(str(vision_models["blip"]), precision="fp31")


def test_from_the_hubs_cache_without_a_network(
    vision_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--tiny"
    shutil.copytree(vision_models["blip"], repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    assert load_captioner("someone/tiny", max_tokens=4)(noise(1))[0].text
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        load_captioner("someone/missing")
    assert "folder" in str(caught.value.fix)


def changed(folder: Path, **values: object) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["vision_model.post_layernorm.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def not_finite(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["vision_model.post_layernorm.weight"][0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def own_weights_and_code(folder: Path) -> None:
    without_a_weight(folder)
    changed(folder, auto_map={"AutoModelForCausalLM": "modeling.Blip"})


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "another kind": (lambda f: changed(f, model_type="clip"), "type 'clip' does not describe pictures"),
    "own code": (lambda f: changed(f, model_type="mine", auto_map={}), "needs Python code of its own"),
    "own code under a known name": (own_weights_and_code, "needs Python code of its own"),
    "a diffusers model": (lambda f: (f / "model_index.json").write_text("{}"), "a diffusers model"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "no config.json"),
    "damaged configuration": (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
    "pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "no weights as .safet"),
    "no processor": (lambda f: (f / "processor_config.json").unlink(), "cannot be read|cannot describe"),
    "damaged weights": (lambda f: (f / "model.safetensors").write_bytes(b"x"), "cannot be read"),
    "a weight is missing": (without_a_weight, "weights are missing"),
    "not finite": (not_finite, "NaN or infinite"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_cannot_be_used_is_told(vision_models: dict[str, Path], tmp_path: Path, kind: str) -> None:
    folder = Path(shutil.copytree(vision_models["blip"], tmp_path / "model"))
    damage, words = DAMAGE[kind]
    damage(folder)
    with pytest.raises(ModelError, match=words) as caught:
        load_captioner(str(folder))
    assert caught.value.fix
    assert caught.value.where


def test_a_model_that_must_be_asked_says_so(vision_models: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(vision_models["llava"], tmp_path / "model"))
    for file in folder.glob("chat_template*"):
        file.unlink()
    with pytest.raises(ModelError, match="cannot describe a picture") as caught:
        load_captioner(str(folder))
    assert "--prompt" in str(caught.value.fix)
    assert load_captioner(str(folder), prompt="<image> a red", max_tokens=4)(noise(1))[0].text
