"""`finetune sample`: pictures from prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click

from finetune.cli.controlnet import FORM, parse_controlnet
from finetune.cli.flags import (
    SettingsCommand,
    check_words,
    given_model,
    model_flags,
    precision_flag,
    setting_flag,
)
from finetune.cli.imports import large_imports
from finetune.cli.terminal import progress, quiet_loading, tell
from finetune.config import ControlKind
from finetune.files import check_writable
from finetune.recipes.load import MODEL_KEYS
from finetune.sampling.settings import (
    SamplingSection,
    parse_embedding,
    parse_lora,
    sampling_section,
)


def _sample(
    prompts: tuple[str, ...],
    model: str | None,
    changes: tuple[str, ...],
    loras: tuple[str, ...],
    embeddings: tuple[str, ...],
    controlnets: tuple[str, ...],
    control_preprocess: ControlKind,
    precision: str | None,
    output_dir: Path,
    **values: Any,
) -> None:
    check_words(prompts, "PROMPT", "A prompt")
    given = {name: value for name, value in values.items() if value is not None}
    settings = sampling_section(**given)
    section = given_model(model, changes)
    specs = [parse_lora(lora) for lora in loras]
    words = [parse_embedding(embedding) for embedding in embeddings]
    if control_preprocess != "none" and not controlnets:
        raise click.UsageError("--control-preprocess requires --controlnet.")
    controls = [parse_controlnet(text, control_preprocess) for text in controlnets]
    branches, images = [spec for spec, _ in controls], [picture for _, picture in controls]
    check_writable(output_dir)
    with large_imports():
        from finetune.kernels import keep_freed_memory
        from finetune.recipes.model import choose_model
        from finetune.sampling import Sampler, save_samples

        quiet_loading()
    keep_freed_memory()
    section, sentence = choose_model(
        section, [path for path, _ in specs], [path for path, _ in words], [spec.path for spec in branches]
    )
    tell(sentence)
    sampler = Sampler.load(
        section, loras=specs, embeddings=words, controlnets=branches, precision=precision or "auto"
    )
    for note in sampler.backbone.notes:
        tell(note)
    choices = settings.model_dump(exclude_unset=True)
    with progress("Sampling") as report:
        samples = sampler(list(prompts), control_images=images or None, progress=report, **choices)
    for note in dict.fromkeys(note for sample in samples for note in sample.notes):
        tell(note)
    saved = save_samples(samples, output_dir)
    pictures = f"{len(saved.pictures)} pictures" if len(saved.pictures) > 1 else str(saved.pictures[0])
    tell(
        f"Wrote {pictures}" + (f" to {output_dir}, and {saved.grid} with all of them." if saved.grid else ".")
    )


sample_command = SettingsCommand(
    "sample",
    callback=_sample,
    help="Generate pictures from prompts, with any model and any LoRAs.",
    params=[
        click.Argument(["prompts"], nargs=-1, required=True, metavar="PROMPT..."),
        *model_flags("the model that the first of these files was made for, else auto"),
        click.Option(
            ["--lora", "loras"],
            multiple=True,
            metavar="PATH[:WEIGHT]",
            help="A run folder or a .safetensors file, with a weight (1 if not given); may be repeated.",
        ),
        click.Option(
            ["--embedding", "embeddings"],
            multiple=True,
            metavar="PATH[:WORD]",
            help="A run folder or a .safetensors file of a new word (textual inversion), with the word to "
            "use in prompts if it is not the file's; may be repeated. A word that was learned with a LoRA is "
            "loaded with the LoRA.",
        ),
        click.Option(
            ["--controlnet", "controlnets"],
            multiple=True,
            metavar=FORM,
            help="A run folder or a diffusers folder of a ControlNet, its control picture, its conditioning "
            "scale (1 if not given) and the range of the steps in which it acts (0-1); may be repeated. The "
            "first picture sets the size if there is no --size.",
        ),
        click.Option(
            ["--control-preprocess"],
            type=click.Choice(get_args(ControlKind)),
            default="none",
            show_default=True,
            help="Make the control pictures from those given, as the ControlNet's training did.",
        ),
        *(setting_flag(f"--{name}", field) for name, field in SamplingSection.model_fields.items()),
        precision_flag(),
        click.Option(
            ["--output-dir"],
            type=click.Path(path_type=Path, file_okay=False),
            default=Path("samples"),
            show_default=True,
            metavar="FOLDER",
            help="Where the pictures go; nothing in it is overwritten.",
        ),
    ],
    keys=MODEL_KEYS,
)
