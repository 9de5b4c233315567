"""`finetune sample`: pictures from prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from finetune.cli.again import check_complete, found_loras, remarks, settings_of
from finetune.cli.controlnet import FORM, parse_controlnet
from finetune.cli.flags import (
    SettingsCommand,
    check_words,
    flag_settings,
    precision_flag,
    set_flag,
    setting_flag,
)
from finetune.cli.imports import large_imports
from finetune.cli.terminal import progress, quiet_loading, tell
from finetune.config import ControlKind, ModelSection
from finetune.files import check_writable
from finetune.recipes.load import SAMPLING_KEYS, build_sampling
from finetune.sampling.settings import SamplingSection, parse_embedding, parse_lora

if TYPE_CHECKING:
    from finetune.sampling.recorded import Recorded


def _sample(
    prompts: tuple[str, ...],
    source: Path | None,
    loras: tuple[str, ...],
    embeddings: tuple[str, ...],
    controlnets: tuple[str, ...],
    control_preprocess: ControlKind,
    init: Path | None,
    mask: Path | None,
    precision: str | None,
    output_dir: Path,
    **values: Any,
) -> None:
    check_words(prompts, "PROMPT", "A prompt")
    record = None if source is None else _record(source)
    if record is None and not prompts:
        raise click.UsageError("Missing argument 'PROMPT...'.")
    given = flag_settings(values, FLAGS)
    section, settings = build_sampling(given if record is None else [*settings_of(record), *given])
    specs = [parse_lora(lora) for lora in loras]
    if settings.emphasis == "a1111" and any("<lora:" in prompt for prompt in prompts):
        prompts, named = _named(prompts)
        specs += named
    if record is not None:
        prompts = prompts or (record.prompt,)
        precision = precision or record.precision
        specs = specs or found_loras(record)
        check_complete(record, {"init": init, "mask": mask}, embeddings, len(controlnets))
    _check_together(settings, init, mask)
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
        samples = sampler(
            list(prompts), control_images=images or None, init=init, mask=mask, progress=report, **choices
        )
    notes = [note for sample in samples for note in sample.notes]
    for note in dict.fromkeys([*notes, *(remarks(record, samples[0]) if record else ())]):
        tell(note)
    saved = save_samples(samples, output_dir)
    pictures = f"{len(saved.pictures)} pictures" if len(saved.pictures) > 1 else str(saved.pictures[0])
    tell(
        f"Wrote {pictures}" + (f" to {output_dir}, and {saved.grid} with all of them." if saved.grid else ".")
    )


def _named(prompts: tuple[str, ...]) -> tuple[tuple[str, ...], list[tuple[Path, float]]]:
    with large_imports():
        from finetune.cli.named_loras import prompts_and_loras
    return prompts_and_loras(prompts)


def _record(source: Path) -> Recorded:
    with large_imports():
        from finetune.sampling.recorded import read_record
    return read_record(source)


def _check_together(settings: SamplingSection, init: Path | None, mask: Path | None) -> None:
    """Refuses what has no effect without another flag, before a model is loaded."""
    needing = {"--strength": settings.strength, "--mask": mask, "sampling.outpaint": settings.outpaint}
    for name, value in needing.items():
        if value is not None and init is None:
            raise click.UsageError(f"{name} requires --init.")
    if settings.hires is not None and init is not None:
        raise click.UsageError("--hires is for pictures from noise; with --init give a larger --size.")


# What people change daily; everything else is reached with --set.
FLAGS = {"--model": "model.name"} | {
    f"--{name}": f"sampling.{name}"
    for name in ("negative", "steps", "guidance", "scheduler", "seed", "num", "size", "strength", "hires")
}
_FIELDS = SamplingSection.model_fields
_OTHERS = ", ".join(key for key in SAMPLING_KEYS if key not in FLAGS.values())

sample_command = SettingsCommand(
    "sample",
    callback=_sample,
    help="Generate pictures from prompts, with any model and any LoRAs.",
    params=[
        click.Argument(["prompts"], nargs=-1, metavar="PROMPT..."),
        click.Option(
            ["--from", "source"],
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="PICTURE",
            help="Make this picture again, from what it says of how it was made; other flags change that.",
        ),
        setting_flag(
            "--model",
            ModelSection.model_fields["name"],
            default="the model that the first of these files was made for, else auto",
        ),
        set_flag(f"Change another setting ({_OTHERS})"),
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
            help="A run folder, a diffusers folder or one file of a ControlNet, its control picture, its "
            "conditioning scale (1 if not given) and the range of the steps in which it acts (0-1); may be "
            "repeated. The first picture sets the size if there is no --size.",
        ),
        click.Option(
            ["--control-preprocess"],
            type=click.Choice(get_args(ControlKind)),
            default="none",
            show_default=True,
            help="Make the control pictures from those given, as the ControlNet's training did.",
        ),
        click.Option(
            ["--init"],
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="PICTURE",
            help="Begin with this picture instead of noise (img2img). Sets the size if there is no --size.",
        ),
        click.Option(
            ["--mask"],
            type=click.Path(path_type=Path, exists=True, dir_okay=False),
            metavar="PICTURE",
            help="Repaint --init only where this picture is white (inpainting).",
        ),
        *(setting_flag(flag, _FIELDS[flag[2:]]) for flag in FLAGS if flag != "--model"),
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
    keys=SAMPLING_KEYS,
)
