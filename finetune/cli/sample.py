"""`finetune sample`: pictures from prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from finetune.cli.flags import SettingsCommand, setting_flag
from finetune.cli.terminal import progress, quiet_loading, tell
from finetune.config import ModelSection, TrainingSection
from finetune.sampling.settings import SamplingSection, parse_lora, sampling_section


def _sample(
    prompts: tuple[str, ...],
    model: str | None,
    loras: tuple[str, ...],
    precision: str | None,
    output_dir: Path,
    **values: Any,
) -> None:
    given = {name: value for name, value in values.items() if value is not None}
    settings = sampling_section(**given)
    specs = [parse_lora(lora) for lora in loras]
    from finetune.recipes.model import choose_model
    from finetune.sampling import Sampler, save_samples

    quiet_loading()
    section, sentence = choose_model(model, [path for path, _ in specs])
    tell(sentence)
    sampler = Sampler.load(section, loras=specs, precision=precision or "auto")
    with progress("Sampling") as report:
        samples = sampler(list(prompts), progress=report, **settings.model_dump(exclude_unset=True))
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
    help="Make pictures of prompts, with any model and any LoRAs.",
    params=[
        click.Argument(["prompts"], nargs=-1, required=True, metavar="PROMPT..."),
        setting_flag(
            "--model",
            ModelSection.model_fields["name"],
            default="the model that the first LoRA was made for, else auto",
        ),
        click.Option(
            ["--lora", "loras"],
            multiple=True,
            metavar="PATH[:WEIGHT]",
            help="A run folder or a .safetensors file, with a weight (1 if not given); may be repeated.",
        ),
        *(setting_flag(f"--{name}", field) for name, field in SamplingSection.model_fields.items()),
        setting_flag(
            "--precision",
            TrainingSection.model_fields["precision"],
            text="Precision to compute in; `auto` is fp32 on a CPU, and bf16 or fp16 on a GPU.",
        ),
        click.Option(
            ["--output-dir"],
            type=click.Path(path_type=Path, file_okay=False),
            default=Path("samples"),
            show_default=True,
            metavar="FOLDER",
            help="Where the pictures go; nothing in it is overwritten.",
        ),
    ],
)
