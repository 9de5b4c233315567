"""Weights of words in prompts, clip skip and long prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from finetune.backbones import Backbone
from finetune.cli import main
from finetune.errors import ConfigError
from finetune.sampling import Sampler
from finetune.sampling.emphasis import edits, parse, plain, weighed
from finetune.sampling.schedulers import make_scheduler
from finetune.sampling.settings import sampling_section
from finetune.sampling.texts import encode_texts
from tests.sampling.test_loras import peft_lora
from tests.sampling.test_sampler import difference
from tests.tiny import Family

SETTINGS: dict[str, Any] = {"steps": 3, "guidance": 9.0, "scheduler": "ddim", "seed": 3, "negative": "ugly"}
THEIRS: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 9.0}


@pytest.mark.parametrize(
    ("prompt", "parts"),
    [
        ("", []),
        ("a cat, on snow: now", [("a cat, on snow: now", 1)]),
        ("a (red) cat", [("a ", 1), ("red", 1.1), (" cat", 1)]),
        ("((red)) [[cat]]", [("red", 1.1**2), (" ", 1), ("cat", 1.1**-2)]),
        ("(red:1.3) cat:2", [("red", 1.3), (" cat:2", 1)]),
        ("(red: .5 )(cat:-1)", [("red", 0.5), ("cat", -1)]),
        ("(a (red:2) cat:0.25)", [("a ", 0.25), ("red", 0.5), (" cat", 0.25)]),
        ("([red]) cat", [("red cat", 1)]),
        (r"mycat \(series\) \[x\] \\", [("mycat (series) [x] \\", 1)]),
        ("a cat) on] snow:1.5)", [("a cat) on] snow:1.5)", 1)]),
        ("a (cat on [snow", [("a ", 1), ("cat on ", 1.1), ("snow", 1)]),
        (r"a\b (it's)", [(r"a\b ", 1), ("it's", 1.1)]),
    ],
)
def test_the_rules_of_a1111(prompt: str, parts: list[tuple[str, float]]) -> None:
    found = parse(prompt)
    assert [text for text, _ in found] == [text for text, _ in parts]
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in parts])


@pytest.mark.parametrize(
    "prompt",
    ["a (red)cat", "it(')s", "a c(a)t, (dog)(s).", "(a  cat ) ,on", "o(n)e1(2)3", "(,)(!)?", "ca(t's) <x>"],
)
def test_parts_are_tokenized_one_by_one(prompt: str, loaded: dict[str, Backbone]) -> None:
    for tokenizer in loaded["sdxl"].tokenizers:
        ids = tokenizer([text for text, _ in parse(prompt)], add_special_tokens=False).input_ids
        whole = tokenizer(plain(parse(prompt)), add_special_tokens=False).input_ids
        assert whole == [token for row in ids for token in row]


def test_a_weight_multiplies_the_embedding_and_keeps_the_mean(
    backbone: Backbone, family: Family, tiny_folder: Path
) -> None:
    """The formula by hand, on what diffusers' pipeline encodes; then its picture."""
    pipeline: Any = DiffusionPipeline.from_pretrained(tiny_folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    for encoder in (backbone.text_encoders[0], pipeline.text_encoder):
        encoder.final_layer_norm.bias.data += 0.3  # as published models have, so that there is a mean
    found = (
        pipeline.encode_prompt("cat dog red", "cpu", 1, True, negative_prompt="ugly")
        if (family != "sdxl")
        else pipeline.encode_prompt("cat dog red", device="cpu", negative_prompt="ugly")
    )
    # The tiny vocabulary has these words as one token each; token 0 is the begin.
    weights = torch.ones(77)
    weights[2], weights[3] = -9, 1.1
    widths = [16] if family != "sdxl" else [16, 24]
    halves = []
    for half in found[0].split(widths, dim=-1):
        scaled = half * weights[None, :, None]
        halves.append(scaled * half.mean() / scaled.mean())
    names = (
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    )
    embeds = dict(zip(names, [torch.cat(halves, dim=-1), *found[1:]], strict=False))
    theirs = pipeline(**embeds, **THEIRS, generator=torch.Generator().manual_seed(3)).images[0]
    sampler = Sampler(backbone)
    (ours,) = sampler("cat (dog:-9) (red)", **SETTINGS)
    (unweighed,) = sampler("cat dog red", **SETTINGS)
    (literal,) = sampler("cat (dog:-9) (red)", emphasis="none", **SETTINGS)
    section = sampling_section()
    texts = encode_texts(backbone, ["cat (dog:-9) (red)"], section, torch.device("cpu"), torch.float32)
    torch.testing.assert_close(texts.hidden, embeds["prompt_embeds"])
    assert difference(ours.image, theirs) <= 1
    assert difference(ours.image, unweighed.image) > 1 < difference(ours.image, literal.image)
    # Brackets that cancel out change nothing, and weights do not touch the prompts beside them.
    both = sampler(["cat dog red", "cat (dog:-9) (red)"], **SETTINGS)
    assert difference(both[0].image, unweighed.image) <= 1 >= difference(both[1].image, ours.image)
    (cancelled,) = sampler("cat ([dog]) red", **SETTINGS)
    assert difference(cancelled.image, unweighed.image) == 0


def test_where_there_is_no_mean_nothing_is_restored(loaded: dict[str, Backbone]) -> None:
    """The tiny model's last norm has no bias: quotients of rounding errors would be anything."""
    backbone = loaded["sd1"]
    hidden, _ = backbone.encode_text(backbone.tokenize(["cat dog"]))
    assert abs(float(hidden.detach().mean())) < 1e-6
    twice = hidden.detach().clone()
    twice[:, 2] *= 2
    assert torch.allclose(weighed(backbone, hidden.detach(), [parse("cat (dog:2)")]), twice)


def test_the_negative_prompt_has_weights_too(loaded: dict[str, Backbone]) -> None:
    sampler = Sampler(loaded["sd1"])
    (one,) = sampler("a cat", **SETTINGS)
    (other,) = sampler("a cat", **SETTINGS | {"negative": "(ugly:25)"})
    assert difference(one.image, other.image) > 1


def test_weights_reach_the_second_piece(loaded: dict[str, Backbone]) -> None:
    sampler = Sampler(loaded["sd1"])
    long = "cat " * 74 + "dog (red:{}) cat"
    one, other = (sampler(long.format(weight), **SETTINGS)[0] for weight in (1, 25))
    assert "red cat" in one.notes[0] and "model.max_tokens=150" in one.notes[0]
    assert difference(one.image, other.image) == 0  # it is not seen
    sampler.backbone.pieces = 2
    try:
        one, other = (sampler(long.format(weight), **SETTINGS)[0] for weight in (1, 25))
    finally:
        sampler.backbone.pieces = 1
    assert one.notes == () and difference(one.image, other.image) > 1
    assert one.info()["max_tokens"] == 150


@pytest.mark.parametrize("skip", [1, 2])
def test_clip_skip_is_that_of_diffusers(
    loaded: dict[str, Backbone], family: Family, tiny_folder: Path, skip: int
) -> None:
    """Which counts from 0."""
    pipeline: Any = DiffusionPipeline.from_pretrained(tiny_folder)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    # diffusers 0.42 looks for the norm where transformers 5 no longer has it.
    pipeline.text_encoder.__dict__["text_model"] = pipeline.text_encoder
    # Without guidance, since diffusers skips nothing for the negative prompt; A1111 does.
    settings = SETTINGS | {"guidance": 1.0}
    theirs = pipeline(
        "a cat",
        clip_skip=skip - 1 if skip > 1 or family != "sdxl" else None,
        generator=torch.Generator().manual_seed(3),
        num_inference_steps=3,
        guidance_scale=1.0,
    ).images[0]
    (ours,) = Sampler(loaded[family])("a cat", clip_skip=skip, **settings)
    (other,) = Sampler(loaded[family])("a cat", clip_skip=3 - skip, **settings)
    assert difference(ours.image, theirs) <= 1 < difference(ours.image, other.image)


def test_what_cannot_be_followed_is_told(loaded: dict[str, Backbone]) -> None:
    sampler = Sampler(loaded["sd1"])
    assert edits("a [cat:dog:0.5] [x|y] [z] (a:2) \\[q:r\\]") == ["[cat:dog:0.5]", "[x|y]"]
    (sample,) = sampler("a [cat:dog:0.5]", **SETTINGS)
    assert sample.notes == ("What A1111 would change between the steps is taken as it stands: [cat:dog:0.5]",)
    assert sampler("a [cat:dog:0.5]", emphasis="none", **SETTINGS)[0].notes == ()
    with pytest.raises(ConfigError, match="A prompt names a LoRA"):
        sampler("a cat <lora:mycat:0.5>")
    with pytest.raises(ConfigError, match="the text encoder has 3 layers"):
        sampler("a cat", clip_skip=4)


def test_loras_in_prompts(
    tiny_models: dict[str, Path], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    peft_lora(tiny_models["sd1"], here / "runs" / "mine", 1)
    few = ["--model", str(tiny_models["sd1"]), "--steps=2", "--output-dir"]
    assert main(["sample", "a cat <lora:mine:0.6>", *few, "one"]) == 0
    assert main(["sample", "a cat", "--lora", "runs/mine:0.6", *few, "two"]) == 0
    assert Path("one/a-cat-0.png").read_bytes() == Path("two/a-cat-0.png").read_bytes()
    assert main(["sample", "a cat", *few, "three"]) == 0
    assert Path("one/a-cat-0.png").read_bytes() != Path("three/a-cat-0.png").read_bytes()
    capsys.readouterr()
    for prompts, said in (
        (["a <lora:none:0.6>"], "There is no LoRA called none"),
        (["a <lora:mine:0.6>", "a <lora:mine:0.7>"], "The prompts name different LoRAs."),
        (["a <lora:mine:0..6>"], "The weight of a LoRA is not a number."),
        (["a <lora:mine:0.6:lbw=1,0,1>"], "and lbw=1,0,1 is not"),
    ):
        assert main(["sample", *prompts, *few, "four"]) == 2
        assert said in capsys.readouterr().err
