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
from safetensors.torch import load_file, save_file

from finetune.adapters import ControlNet
from finetune.backbones import Backbone, load_backbone
from finetune.backbones.words import AddedWord
from finetune.config import ControlNetSection, ModelSection
from finetune.config.forms import FORMS
from finetune.formats import read_lora, read_tensors, write_controlnet, write_kohya
from finetune.sampling import Sampler
from finetune.sampling.schedulers import make_scheduler
from tests.adapters.test_controlnet import stirred
from tests.backbones.test_single_file import read as read_checkpoint
from tests.battery.test_exports import add_word
from tests.export.test_forms import written
from tests.formats.conftest import trained_lora
from tests.formats.test_controlnet import with_factor_8
from tests.sampling.test_sampler import difference
from tests.tiny import Family

Fresh = Callable[[], Backbone]
# Layers of every kind; that all others have their names is tested at true size.
SOME = {"down_blocks": 0, "up_blocks": 0, "mid_block": 2, "up_blocks.1": 4}
LORAS: dict[str, dict[str, Any]] = {
    "lora": {"text_encoder": True},
    "locon": {"rslora": True, "conv_rank": 2, "conv_alpha": 3.0, "text_encoder": True, "targets": "all"},
    "dora": {"dora": True, "text_encoder": True, "conv_rank": 2},
    "loha": {"algorithm": "loha", "conv_rank": 2, "text_encoder": True},
    "lokr": {"algorithm": "lokr", "rank": 1, "conv_rank": 1, "text_encoder": True},
}
# What diffusers reads, or PEFT; the rest is for other programs (docs/export.md). A merged model is one
# whatever was merged, and slow to load.
READ_ELSEWHERE = {
    "kohya": ("lora", "locon"),
    "diffusers": tuple(LORAS),
    "peft": tuple(LORAS),
    "plain-lora": tuple(LORAS),
    "merged": ("locon",),
    "single-file": ("locon",),
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


def in_diffusers(form: str, file: Path, model: Path, plain: Backbone) -> Any:
    """A pipeline of plain diffusers with what was written."""
    if form == "merged":
        return DiffusionPipeline.from_pretrained(file)
    if form == "single-file":
        kind: Any = StableDiffusionXLPipeline if plain.family == "sdxl" else StableDiffusionPipeline
        return kind.from_single_file(str(file), config=str(model), local_files_only=True)
    pipeline: Any = plain.pipeline()
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
    adapter = trained_lora(backbone, block_rank=SOME, **LORAS[kind])
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
            pipeline = in_diffusers(form, out, tiny_folder, fresh())
            assert difference(elsewhere(pipeline), learned) <= 1, f"{form} in diffusers"
    assert difference(picture(Sampler(plain)), base) == 0


def test_a_whole_model(family: Family, tiny_folder: Path, fresh: Fresh, tmp_path: Path) -> None:
    """Between a folder and one file: the same picture, and after a round trip the same bits."""
    backbone = fresh()
    base = picture(Sampler(backbone))
    draws = torch.Generator().manual_seed(1)
    for module in (backbone.unet, backbone.vae, *backbone.text_encoders):
        for parameter in module.parameters():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=draws)
    learned = picture(Sampler(backbone))
    assert difference(learned, base) > 5
    backbone.pipeline().save_pretrained(tmp_path / "model")
    file = written("single-file", tmp_path / "model", backbone, tmp_path / "one.safetensors")
    read = read_checkpoint(file, tiny_folder, family)
    folder = written("merged", tmp_path / "model", read, tmp_path / "again")
    assert difference(picture(Sampler(read)), learned) <= 1
    again = load(folder)
    assert difference(picture(Sampler(again)), learned) <= 1
    assert difference(elsewhere(in_diffusers("merged", folder, tiny_folder, backbone)), learned) <= 1
    assert difference(elsewhere(in_diffusers("single-file", file, tiny_folder, backbone)), learned) <= 1
    same_bits(file, written("single-file", folder, again, tmp_path / "two.safetensors"))
    assert weights(again) == weights(backbone)


def weights(backbone: Backbone) -> Any:
    """All weights, to be compared to the bit."""
    parts = (backbone.unet, backbone.vae, *backbone.text_encoders)
    return [(n, t.numpy().tobytes()) for part in parts for n, t in part.state_dict().items()]


def same_bits(one: Path, other: Path) -> None:
    """Fails unless two files hold the same tensors."""
    first, second = read_tensors(one)[0], read_tensors(other)[0]
    assert first.keys() == second.keys()
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_controlnet(backbone: Backbone, tmp_path: Path) -> None:
    backbone = with_factor_8(backbone)
    plain = picture(Sampler(copy.deepcopy(backbone)), size=64)
    adapter = stirred(ControlNet(backbone, ControlNetSection()))
    control = Image.effect_noise((64, 64), 90).convert("RGB")
    (tmp_path / "run" / "controlnet").mkdir(parents=True)
    source = tmp_path / "run" / "controlnet"
    write_controlnet(source, adapter, {})
    in_memory = backbone.pipeline([adapter.branch])
    more = {"image": control, "height": 64, "width": 64}
    learned = elsewhere(in_memory, **more)
    assert difference(learned, plain) > 5
    file = written("controlnet-single-file", source, backbone, tmp_path / "one.safetensors")
    folder = written("controlnet", file, backbone, tmp_path / "back")
    name = "diffusion_pytorch_model.safetensors"  # which is also given alone
    unmarked = {name.removeprefix("control_model."): tensor for name, tensor in load_file(file).items()}
    save_file(unmarked, tmp_path / "unmarked.safetensors")  # as some are published
    for path in (source, source / name, file, folder, tmp_path / "unmarked.safetensors"):
        sampler = Sampler(backbone)
        sampler.add_controlnet(path)
        assert difference(picture(sampler, control_images=control, size=64), learned) <= 1, path
    read = [ControlNetModel.from_pretrained(folder)]
    if backbone.family != "sdxl":  # whose size embedding diffusers 0.42 leaves out
        read.append(ControlNetModel.from_single_file(str(file), config=str(source)))
    for branch in read:
        assert difference(elsewhere(backbone.pipeline([branch]), **more), learned) <= 1
    same_bits(file, written("controlnet-single-file", folder, backbone, tmp_path / "two.safetensors"))
    same_bits(source / name, folder / name)


def test_a_new_word(family: Family, fresh: Fresh, tmp_path: Path) -> None:
    """From its own file, and from that of a LoRA that learned it."""
    backbone, asked = fresh(), f"a photo of {WORD}"
    adapter = trained_lora(backbone, block_rank=SOME, placeholder=WORD, vectors=2)
    word = adapter.word()
    assert word is not None
    write_kohya(tmp_path / "lora.safetensors", adapter, {})
    unsaid = picture(Sampler(fresh()), "a photo of")
    in_memory = fresh()
    AddedWord(in_memory, word)
    learned = picture(Sampler(in_memory), asked)
    assert difference(learned, unsaid) > 1
    first = written("embedding", tmp_path / "lora.safetensors", fresh(), tmp_path / "first.safetensors")
    second = written("embedding", first, fresh(), tmp_path / "second.safetensors")
    same_bits(first, second)
    for file in (first, second):
        sampler = Sampler(fresh())
        sampler.add_embedding(file)
        assert difference(picture(sampler, asked), learned) == 0
    pipeline = fresh().pipeline()
    add_word(pipeline, second, family)
    assert difference(elsewhere(pipeline, asked), learned) <= 1


# --- round trips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LORAS)
def test_layouts_lose_nothing(kind: str, family: Family, fresh: Fresh, tmp_path: Path) -> None:
    """Wherever a LoRA comes back to a layout, its file holds the same bits, and always the same change."""
    backbone = fresh()
    adapter = trained_lora(backbone, block_rank=SOME, **LORAS[kind])
    learned = adapter.weights()
    write_kohya(tmp_path / "source.safetensors", adapter, {"finetune.step": "9"})
    adapter.detach()
    place, seen = tmp_path / "source.safetensors", {}
    for number, form in enumerate(("diffusers", "peft", "kohya", "diffusers", "kohya", "peft")):
        out = tmp_path / f"{number}-{form}"
        out = out if FORMS[form].folder else out.with_suffix(".safetensors")
        place = written(form, place, backbone, out)
        read = read_lora(place, backbone)
        assert read.layers.keys() == learned.layers.keys() and read.metadata["finetune.step"] == "9"
        for key, layer in learned.layers.items():
            torch.testing.assert_close(read.layers[key].delta(), layer.delta(), rtol=1e-5, atol=1e-6)
        files = [place] if place.is_file() else sorted(place.glob("*/*.safetensors"))
        for one, other in zip(seen.setdefault(form, files), files, strict=True):
            same_bits(one, other)
