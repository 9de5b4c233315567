"""`finetune sample`: pictures from prompts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from finetune.cli.again import check_complete, found_loras, remarks, settings_of
from finetune.cli.batches import batches, sample_all, varies
from finetune.cli.controlnet import FORM, KINDS, parse_controlnet
from finetune.cli.flags import (
    SettingsCommand,
    check_words,
    flag_settings,
    set_flag,
    setting_flag,
)
from finetune.cli.imports import large_imports
from finetune.cli.prompt_file import Line, read_prompts
from finetune.cli.terminal import progress, quiet_loading, tell, tell_end, tell_warning
from finetune.config import ModelSection
from finetune.files import check_writable
from finetune.recipes.load import SAMPLING_KEYS, build_sampling
from finetune.sampling.axes import Axis, read_axes
from finetune.sampling.settings import SamplingSection
from finetune.sampling.specs import ControlSpec, parse_embedding, parse_lora

if TYPE_CHECKING:
    from finetune.sampling import Sample, Sampler
    from finetune.sampling.recorded import Recorded


def _sample(
    prompts: tuple[str, ...],
    source: Path | None,
    loras: tuple[str, ...],
    embeddings: tuple[str, ...],
    controlnets: tuple[str, ...],
    init: Path | None,
    mask: Path | None,
    prompt_file: Path | None,
    grids: tuple[str, ...],
    output_dir: Path,
    **values: Any,
) -> None:
    check_words(prompts, "PROMPT", "A prompt")
    record = None if source is None else _record(source)
    lines = [] if prompt_file is None else read_prompts(prompt_file)
    if record is None and not prompts and not lines:
        raise click.UsageError("Missing argument 'PROMPT...'.")
    given = [*(settings_of(record) if record else ()), *flag_settings(values, FLAGS)]
    section, settings = build_sampling(given)
    specs = [parse_lora(lora) for lora in loras]
    prompts = (*prompts, *(line.prompt for line in lines))
    if settings.emphasis == "a1111" and any("<lora:" in prompt for prompt in prompts):
        prompts, named = _named(prompts)
        specs += named
    precision: str | None = settings.precision
    if record is not None:
        prompts = prompts or (record.prompt,)
        precision = precision or record.precision
        specs = specs or found_loras(record)
        check_complete(record, {"init": init, "mask": mask}, embeddings, len(controlnets))
    own = [()] * (len(prompts) - len(lines)) + [line.settings for line in lines]
    lines = [Line(prompt, settings) for prompt, settings in zip(prompts, own, strict=True)]
    axes = read_axes(grids)
    groups = batches(lines, given, axes, specs)
    for batch in (batch for group in groups for batch in group):
        _check_together(batch.settings, init, mask)
        if batch.settings.changes_loras and not specs:
            raise click.UsageError("sampling.lora_blocks and sampling.lora_steps require --lora.")
        batch.settings.check_ends(len(batch.prompts))
    words = [parse_embedding(embedding) for embedding in embeddings]
    controls = list(map(parse_controlnet, controlnets))
    check_writable(output_dir)
    inputs = {"control_images": [picture for _, picture in controls] or None, "init": init, "mask": mask}
    sampler = _loaded(section, specs, words, [spec for spec, _ in controls], precision, varies(groups))
    with progress("Sampling") as report:
        made = sample_all(sampler, groups, report, **inputs)
    _write(made, axes, record, output_dir)


def _loaded(
    section: ModelSection,
    loras: list[tuple[Path, float]],
    words: list[tuple[Path, str | None]],
    branches: list[ControlSpec],
    precision: str | None,
    weights_vary: bool,
) -> Sampler:
    """The model with all that was given, LoRAs merged into it unless their weights vary."""
    with large_imports():
        from finetune.kernels import keep_freed_memory
        from finetune.recipes.model import choose_model
        from finetune.sampling import Sampler

        quiet_loading()
    keep_freed_memory()
    section, sentence = choose_model(
        section, [path for path, _ in loras], [path for path, _ in words], [spec.path for spec in branches]
    )
    tell(sentence)
    sampler = Sampler.load(
        section,
        loras=[] if weights_vary else loras,
        embeddings=words,
        controlnets=branches,
        precision=precision or "auto",
    )
    for path, weight in loras if weights_vary else ():
        sampler.add_lora(path, weight)
    for note in sampler.backbone.notes:
        tell_warning(note)
    return sampler


def _write(
    made: list[list[list[Sample]]], axes: list[Axis], record: Recorded | None, output_dir: Path
) -> None:
    from finetune.sampling import save_plots, save_samples

    samples = [sample for group in made for place in group for sample in place]
    notes = [note for sample in samples for note in sample.notes]
    for note in dict.fromkeys([*notes, *(remarks(record, samples[0]) if record else ())]):
        tell_warning(note)
    saved = save_plots(axes, made, output_dir) if axes else save_samples(samples, output_dir)
    pictures = f"{len(saved.pictures)} pictures" if len(saved.pictures) > 1 else str(saved.pictures[0])
    sheets = " and ".join(map(str, saved.grids))
    strips = " A filmstrip is beside each." if samples[0].frames else ""
    tell_end(
        f"Wrote {pictures}"
        + (f" to {output_dir}, and {sheets} with all of them." if sheets else ".")
        + strips,
        [*saved.pictures, *saved.grids],
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
        raise click.UsageError("sampling.hires is for pictures from noise; with --init give a larger --size.")


# What people change daily; everything else is reached with --set.
FLAGS = {"--model": "model.name", "--vae": "model.vae"} | {
    f"--{name}": f"sampling.{name}"
    for name in ("negative", "steps", "guidance", "scheduler", "seed", "num", "size", "strength")
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
            "conditioning scale (1 if not given), the range of the steps in which it acts (0-1), and how the "
            f"control picture is made from this one ({', '.join(KINDS)}), if it is none yet; may be "
            "repeated. The first picture sets the size if there is no --size.",
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
        setting_flag("--vae", ModelSection.model_fields["vae"]),
        *(setting_flag(flag, _FIELDS[flag[2:]]) for flag in FLAGS if flag[2:] in _FIELDS),
        click.Option(
            ["--prompts", "prompt_file"],
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="More prompts, one a line, with settings of its own as kohya's scripts have them "
            "(--n --s --l --d --ss --w --h).",
        ),
        click.Option(
            ["--grid", "grids"],
            multiple=True,
            metavar="KEY=V1,V2",
            help="An X/Y plot: sample with each of these values of a setting, of lora.weight or of prompt "
            "(the first value is replaced by the others); once more for the second axis.",
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
    keys=SAMPLING_KEYS,
)
