"""The results of a run: which files, for which program, and how each is used."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from finetune.errors import ConfigError
from finetune.recipes.load import RECIPES, load_recipe
from finetune.watching.asked import without_home
from finetune.watching.seen import RECIPE, Seen, size_of

# The files and folders of a run that are no results.
_OWN = {RECIPE, "checkpoints", "samples", "logs", "pictures.jsonl", "metrics.jsonl", "validation.jsonl",
        "evaluation.jsonl", "best.json", "stream.jsonl",
        "summary.txt", "skipped.txt", "failure.txt", "report.html"}  # fmt: skip
_DIFFUSERS_LORA, _EMBEDDING = "pytorch_lora_weights.safetensors", "learned_embeds.safetensors"
_MODEL, _BRANCH = "model", "controlnet"
_WHOLE = ("dreambooth", "full", "pretrain")


@dataclass(frozen=True)
class Made:
    """One result.

    Attributes:
        name: Of the file, or of the folder with a slash.
        size: In bytes.
        purpose: Who reads it, and where it is put.
    """

    name: str
    size: int
    purpose: str


def results(run: Seen) -> list[Made]:
    """The results of a run, the file that is shared first."""
    made: list[Made] = []
    for path in sorted(run.folder.path.iterdir()):
        staged = run.kind in RECIPES and path.name in RECIPES[run.kind].stages
        if path.name in _OWN or path.name.startswith((".", "results-")) or staged:
            continue
        name = f"{path.name}/" if path.is_dir() else path.name
        made.append(Made(name, size_of(path), _purpose(run, path)))
    return sorted(made, key=lambda one: one.name == _DIFFUSERS_LORA)


def _purpose(run: Seen, path: Path) -> str:
    if path.name == _DIFFUSERS_LORA:
        return "For diffusers and finetune sample."
    if path.name == _MODEL:
        return "For diffusers and finetune sample --model."
    if path.name == _BRANCH:
        return "For diffusers and finetune sample --controlnet."
    if path.suffix != ".safetensors":
        return ""
    if run.recipe.get("model", {}).get("name") == "storybook":
        return "Key names of A1111, Forge and ComfyUI, none of which loads the bundled model storybook."
    if path.name == _EMBEDDING:
        return "A1111, Forge: embeddings/. ComfyUI: models/embeddings/. Diffusers: load_textual_inversion."
    if run.kind in ("lora", "distill"):
        return "A1111, Forge: models/Lora/. ComfyUI: models/loras/. InvokeAI: Model Manager."
    if run.kind == "controlnet":
        return "A1111, Forge: models/ControlNet/. ComfyUI: models/controlnet/."
    if run.kind == "embedding":
        return "A1111, Forge: embeddings/. ComfyUI: models/embeddings/."
    return "A1111, Forge: models/Stable-diffusion/. ComfyUI: models/checkpoints/. InvokeAI: Model Manager."


def about(run: Seen) -> dict[str, str]:
    """What the results say of how they were made (P7); empty if there are none."""
    for path in _candidates(run.folder.path):
        try:
            if path.suffix == ".json":
                found = json.loads(path.read_text(encoding="utf-8"))
            else:
                with safe_open(path, framework="numpy") as opened:
                    found = opened.metadata() or {}
        except (OSError, ValueError, SafetensorError):
            continue
        if isinstance(found, dict) and "finetune.version" in found:
            return {
                str(key): value if isinstance(value, str) else json.dumps(value)
                for key, value in found.items()
            }
    return {}


def _candidates(folder: Path) -> Iterator[Path]:
    yield from sorted(folder.glob("*.safetensors"))
    yield from sorted((folder / _BRANCH).glob("*.safetensors"))
    yield folder / _MODEL / "finetune.json"


def sample_command(run: Seen, place: str, prompt: str) -> str | None:
    """The command that samples with the results; None if there are none, or another version wrote the recipe.

    Args:
        run: The run.
        place: Its folder, as commands name it.
        prompt: What to show.
    """
    if run.state != "finished":
        return None
    try:
        recipe = load_recipe(run.folder.recipe)
    except ConfigError:
        return None
    return f"finetune sample {shlex.quote(prompt)} {recipe.sample_flags(Path(place))}"


def snippet(run: Seen, place: str, prompt: str) -> str | None:
    """Python that does the same: with diffusers, or finetune where the model is no diffusers folder."""
    if run.state != "finished" or run.kind == "controlnet":
        return None
    save = 'save("picture.png")'
    model = without_home(str(run.recipe.get("model", {}).get("name")))
    whole = run.kind in _WHOLE
    if whole:
        model = f"{place}/{_MODEL}"
    if model == "storybook" or Path(model).suffix in (".safetensors", ".ckpt"):
        given = "embeddings" if run.kind == "embedding" else "loras"
        return (
            f"from finetune import Sampler\n\nsampler = Sampler.load({model!r}, {given}=[{place!r}])\n"
            f"sampler({prompt!r})[0].{save}\n"
        )
    load = {
        "lora": f"pipeline.load_lora_weights({place!r})\n",
        "distill": f"pipeline.load_lora_weights({place!r})\n"
        "pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)\n",
        "embedding": f"pipeline.load_textual_inversion({f'{place}/{_EMBEDDING}'!r})\n",
    }.get(run.kind, "")
    names = (
        "AutoPipelineForText2Image, LCMScheduler" if run.kind == "distill" else "AutoPipelineForText2Image"
    )
    how = ", num_inference_steps=4, guidance_scale=1" if run.kind == "distill" else ""
    return (
        f"from diffusers import {names}\n\npipeline = AutoPipelineForText2Image.from_pretrained({model!r})\n"
        f"{load}pipeline({prompt!r}{how}).images[0].{save}\n"
    )
