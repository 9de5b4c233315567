"""A picture of everything in every form that it can be written in is the picture made before (1 of 255)."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ControlNetModel, DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import PeftModel
from PIL import Image

from finetune.adapters import ControlNet
from finetune.backbones import Backbone, load_backbone
from finetune.backbones.words import AddedWord, Word
from finetune.config import ControlNetSection, ModelSection
from finetune.config.forms import FORMS
from finetune.formats import read_tensors, write_controlnet, write_embedding, write_kohya
from finetune.sampling import Sampler
from finetune.sampling.schedulers import make_scheduler
from tests.adapters.test_controlnet import stirred
from tests.backbones.test_single_file import read as read_checkpoint
from tests.battery.test_exports import add_word
from tests.export.test_forms import written
from tests.formats.conftest import trained_lora
from tests.formats.test_controlnet import with_factor_8
from tests.sampling.test_sampler import difference
from tests.tiny import FAMILIES, Family

Fresh = Callable[[], Backbone]
LORAS: dict[str, dict[str, Any]] = {
    "lora": {"text_encoder": True, "block_rank": {"mid_block": 2}},
    "locon": {"rslora": True, "conv_rank": 2, "conv_alpha": 3.0, "text_encoder": True, "targets": "all"},
    "dora": {"dora": True, "text_encoder": True, "conv_rank": 2},
    "loha": {"algorithm": "loha", "conv_rank": 2, "text_encoder": True},
    "lokr": {"algorithm": "lokr", "rank": 1, "conv_rank": 1, "text_encoder": True},
}
# What diffusers reads, or PEFT; the rest is for other programs (docs/export.md).
READ_ELSEWHERE = {
    "kohya": ("lora", "locon"),
    "diffusers": tuple(LORAS),
    "peft": tuple(LORAS),
    "plain-lora": tuple(LORAS),
    "merged": tuple(LORAS),
    "single-file": tuple(LORAS),
}
WORD = "<mycat>"


def picture(sampler: Sampler, prompt: str = "a red cat", **more: Any) -> Image.Image:
    """By this program."""
    (made,) = sampler(prompt, seed=0, steps=2, guidance=3.0, scheduler="ddim", **({"size": 32} | more))
    return made.image


def elsewhere(pipeline: Any, prompt: str = "a red cat", **more: Any) -> Image.Image:
    """The same one by plain diffusers."""
    pipeline.set_progress_bar_config(disable=True)
    pipeline.scheduler = make_scheduler("ddim", pipeline.scheduler)
    made = pipeline(
        prompt,
        num_inference_steps=2,
        guidance_scale=3.0,
        generator=torch.Generator().manual_seed(0),
        **({"height": 32, "width": 32} | more),
    )
    result: Image.Image = made.images[0]
    return result


def load(folder: Path) -> Backbone:
    return load_backbone(ModelSection(name=str(folder)))


def in_diffusers(form: str, file: Path, model: Path, family: Family) -> Any:
    """A pipeline of plain diffusers with what was written."""
    if form == "merged":
        return DiffusionPipeline.from_pretrained(file)
    if form == "single-file":
        kind: Any = StableDiffusionXLPipeline if family == "sdxl" else StableDiffusionPipeline
        return kind.from_single_file(str(file), config=str(model), local_files_only=True)
    pipeline: Any = DiffusionPipeline.from_pretrained(model)
    if form == "peft":
        for part in sorted(file.iterdir()):
            own = PeftModel.from_pretrained(getattr(pipeline, part.name), part)
            setattr(pipeline, part.name, own.merge_and_unload())
        return pipeline
    pipeline.load_lora_weights(file.parent, weight_name=file.name)
    return pipeline


@pytest.mark.parametrize("kind", LORAS)
@pytest.mark.filterwarnings("ignore")  # between PEFT and transformers
def test_a_lora(kind: str, family: Family, tiny_folder: Path, fresh: Fresh, tmp_path: Path) -> None:
    backbone = fresh()
    base = picture(Sampler(backbone))
    adapter = trained_lora(backbone, **LORAS[kind])
    learned = picture(Sampler(backbone))
    assert difference(learned, base) > 5  # else the test would show nothing
    source = tmp_path / "source.safetensors"
    write_kohya(source, adapter, {})
    plain = fresh()
    forms = [name for name, form in FORMS.items() if "lora" in form.writers and name != "embedding"]
    assert forms == list(READ_ELSEWHERE)
    for form in forms:
        out = tmp_path / (form if FORMS[form].folder else f"{form}.safetensors")
        written(form, source, plain, out, **({"rank": 10_000} if FORMS[form].ranked else {}))
        if form == "merged":
            sampler = Sampler(load(out))
        elif form == "single-file":
            sampler = Sampler(read_checkpoint(out, tiny_folder, family))
        else:
            sampler = Sampler(fresh())
            sampler.add_lora(out)
        assert difference(picture(sampler), learned) <= 1, form
        if kind in READ_ELSEWHERE[form]:
            pipeline = in_diffusers(form, out, tiny_folder, family)
            assert difference(elsewhere(pipeline), learned) <= 1, f"{form} in diffusers"
    assert difference(picture(Sampler(plain)), base) == 0
