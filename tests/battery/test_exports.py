"""What training leaves on disk is what was in memory: a picture of each, by plain diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ControlNetModel, DiffusionPipeline
from diffusers import StableDiffusionControlNetPipeline as Controlled
from diffusers import StableDiffusionXLControlNetPipeline as ControlledXL
from PIL import Image
from safetensors.torch import load_file

from finetune.adapters import ControlNet
from finetune.backbones import load_backbone
from finetune.config import ModelSection
from finetune.formats import apply_lora, read_lora
from finetune.recipes.run import Run
from tests.battery.cases import Case, Trained
from tests.tiny import Family

CONTROL = Image.fromarray(np.random.default_rng(5).integers(0, 256, (32, 32, 3), dtype=np.uint8))


def test_a_fresh_model_with_the_export_draws_the_same(
    case: Case, family: Family, tiny_folder: Path, trained: Trained
) -> None:
    with trained.untrained() as this:
        before = picture(this, in_memory(this))
    with this.trainer.evaluating():
        this.recipe.write_results(this.adapter, this.backbone, this.folder.path, "run", {})
        learned = picture(this, in_memory(this))
    assert np.abs(learned - before).max() > 2
    if case.plain:
        again = picture(this, from_disk(this, family, tiny_folder))
    else:  # A1111 and ComfyUI read these; diffusers does not
        other = load_backbone(ModelSection(name=str(tiny_folder)))
        apply_lora(other, read_lora(this.folder.path / "run.safetensors", other))
        again = picture(this, other.pipeline())
    assert np.abs(again - learned).max() < 1


def picture(this: Run, pipeline: Any) -> np.ndarray[Any, Any]:
    """A picture of the words trained on, values from 0 to 255, with classifier-free guidance."""
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(
        this.source.captions()[0],
        **({"image": CONTROL} if isinstance(this.adapter, ControlNet) else {"height": 32, "width": 32}),
        num_inference_steps=2,
        guidance_scale=3.0,
        output_type="np",
        generator=torch.Generator().manual_seed(0),
    )
    result: np.ndarray[Any, Any] = made.images[0] * 255
    return result


def in_memory(this: Run) -> Any:
    """The model in training, as a diffusers pipeline."""
    return this.backbone.pipeline([this.adapter.branch] if isinstance(this.adapter, ControlNet) else ())


def from_disk(this: Run, family: Family, model: Path) -> Any:
    """A freshly loaded diffusers pipeline with what the run left."""
    folder = this.folder.path
    if (folder / "model").is_dir():
        return DiffusionPipeline.from_pretrained(folder / "model")
    if (folder / "controlnet").is_dir():
        kind: Any = ControlledXL if family == "sdxl" else Controlled
        options = {} if family == "sdxl" else {"safety_checker": None}
        branch = ControlNetModel.from_pretrained(folder / "controlnet")
        return kind.from_pretrained(model, controlnet=branch, **options)
    pipeline = DiffusionPipeline.from_pretrained(model)
    if (folder / "learned_embeds.safetensors").is_file():
        alone = folder / "run.safetensors", folder / "mycat.safetensors"
        add_word(pipeline, alone[(folder / "pytorch_lora_weights.safetensors").is_file()], family)
    if (folder / "pytorch_lora_weights.safetensors").is_file():
        pipeline.load_lora_weights(folder)
    return pipeline


def add_word(pipeline: Any, file: Path, family: Family) -> None:
    """Loads a new word into a plain pipeline, as docs/embedding.md says."""
    if family != "sdxl":
        pipeline.load_textual_inversion(file, token="<mycat>")
        return
    tensors = load_file(file)
    for key, number in (("clip_l", ""), ("clip_g", "_2")):
        parts = {name: getattr(pipeline, name + number) for name in ("text_encoder", "tokenizer")}
        pipeline.load_textual_inversion({"<mycat>": tensors[key]}, **parts)
    pipeline.text_encoder_2.text_model.eos_token_id = pipeline.tokenizer_2.eos_token_id
