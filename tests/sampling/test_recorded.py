"""What is read from a picture of how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from finetune.errors import DataError
from finetune.sampling.emphasis import Tagged, lora_tags
from finetune.sampling.png import parameters, save_png
from finetune.sampling.recorded import read_record
from finetune.sampling.settings import sampling_section

IMAGE = Image.new("RGB", (64, 64), (10, 20, 30))
INFO: dict[str, Any] = {
    "prompt": "a photo of mycat\non snow",
    "seed": 7,
    "negative": "blurry, grey",
    "steps": 25,
    "guidance": 5.5,
    "scheduler": "euler-a",
    "size": [64, 96],
    "strength": 0.4,
    "init": {"name": "sketch.png", "sha256": "12"},
    "model": "storybook",
    "loras": [["mycat", 0.8]],
    "precision": "fp32",
}

# As A1111 1.9 writes it, by its documentation and pictures.
A1111 = """a cat (wearing a hat:1.2) <lora:mycat:0.7>, on snow <lora:style>
in the evening
Negative prompt: ugly, Steps: many
Steps: 20, Sampler: DPM++ 2M, Schedule type: Karras, CFG scale: 7, Seed: 965400086, Size: 512x768, \
Model hash: 6ce0161689, Model: v1-5-pruned-emaonly, Denoising strength: 0.6, Eta: 0.3, Hires upscale: 1.5, \
Hires steps: 10, Hires upscaler: Latent, Lora hashes: "mycat: 12ab, style: 34cd", Version: v1.9.4"""


def with_text(folder: Path, **texts: str) -> Path:
    chunks = PngInfo()
    for key, text in texts.items():
        chunks.add_text(key, text)
    IMAGE.save(folder / "a.png", pnginfo=chunks)
    return folder / "a.png"


def test_ours_are_read_whole(tmp_path: Path) -> None:
    record = read_record(save_png(IMAGE, tmp_path / "a.png", INFO))
    assert record.prompt == INFO["prompt"] and record.model == "storybook" and record.precision == "fp32"
    settings = ("seed", "negative", "steps", "guidance", "scheduler", "size", "strength")
    assert dict(record.settings) == {key: INFO[key] for key in settings}
    assert record.loras == (("mycat", 0.8),) and dict(record.given) == {"init": INFO["init"]}
    assert record.notes == ()


def test_a1111_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    record = read_record(with_text(tmp_path, parameters=A1111))
    assert record.prompt == "a cat (wearing a hat:1.2), on snow\nin the evening"
    assert record.loras == (("mycat", 0.7), ("style", 1.0))
    section = sampling_section(**record.settings)
    assert section.negative == "ugly, Steps: many"
    assert (section.steps, section.scheduler, section.guidance) == (20, "dpm++", 7)
    assert section.sigmas == "karras"
    assert (section.seed, section.size) == (965400086, (512, 768))
    assert (section.hires, section.hires_strength, section.hires_upscaler) == (1.5, 0.6, "latent")
    assert section.strength is None and not record.given
    told = " ".join(record.notes)
    assert "a model called v1-5-pruned-emaonly" in told and "Eta: 0.3" in told and "Hires steps: 10" in told
    assert "Lora hashes" not in told and "Version" not in told
    assert record.model is None


def test_an_unknown_sampler_and_a_first_picture_are_told(tmp_path: Path) -> None:
    text = "a cat\nSteps: 20, Sampler: Warp 9, Denoising strength: 0.6, Seed: 1"
    record = read_record(with_text(tmp_path, parameters=text))
    assert any("no sampler called 'Warp 9'" in note for note in record.notes)
    assert record.settings["strength"] == "0.6" and "init" in record.given
    assert "scheduler" not in record.settings


def test_what_we_write_for_a1111_is_read_back(tmp_path: Path) -> None:
    record = read_record(with_text(tmp_path, parameters=parameters(INFO)))
    section, before = (
        sampling_section(**record.settings),
        sampling_section(
            **{
                key: INFO[key]
                for key in ("seed", "negative", "steps", "guidance", "scheduler", "size", "strength")
            }
        ),
    )
    assert section == before
    assert record.prompt == INFO["prompt"] and record.loras == (("mycat", 0.8),)


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({}, "does not say how it was made"),
        ({"parameters": "a cat"}, "is damaged"),
        ({"finetune": "{"}, "is damaged"),
        ({"finetune": '{"samples": [{"prompt": "a"}]}'}, "is damaged"),
        ({"finetune": '{"samples": [1]}'}, "is damaged"),
        ({"finetune": '{"samples": 3}'}, "is damaged"),
        ({"finetune": '{"samples": [{}, {}]}'}, "a sheet of 2 pictures"),
        ({"parameters": "a <lora:x:0..1>\nSteps: 2"}, "is damaged"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, texts: dict[str, str], said: str) -> None:
    with pytest.raises(DataError, match=said):
        read_record(with_text(tmp_path, **texts))


def test_what_is_no_picture_is_told(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(b"\x89PNG no more")
    for path in (tmp_path / "b.png", tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match="The picture cannot be read"):
            read_record(path)


@pytest.mark.parametrize(
    ("prompt", "rest", "loras", "unread"),
    [
        ("a cat", "a cat", (), ()),
        ("<lora:a:0.5> a cat <lora:b:-1>", "a cat", (("a", 0.5), ("b", -1.0)), ()),
        ("a <lora:x y> cat", "a cat", (("x y", 1.0),), ()),
        ("a <lora:x:1:0.5> cat <lora:>", "a cat <lora:>", (("x", 1.0),), ("0.5",)),
        ("a <lora:x:0.8:lbw=1,0:stop=9> cat", "a cat", (("x", 0.8),), ("lbw=1,0:stop=9",)),
    ],
)
def test_lora_tags(
    prompt: str, rest: str, loras: tuple[tuple[str, float], ...], unread: tuple[str, ...]
) -> None:
    assert lora_tags(prompt) == Tagged(rest, loras, unread)


def test_what_a_tag_says_besides_the_weight_is_named(tmp_path: Path) -> None:
    text = "a cat <lora:mycat:0.7:lbw=ALL>\nSteps: 2, Sampler: Euler"
    assert "lbw=ALL of a LoRA" in " ".join(read_record(with_text(tmp_path, parameters=text)).notes)
