"""Writes something that was trained in one of the forms of `config.forms`."""

from __future__ import annotations

from pathlib import Path

from finetune.config.choices import imported
from finetune.config.forms import FORMS, KINDS
from finetune.errors import ConfigError
from finetune.export.job import Job
from finetune.export.made import Made
from finetune.files import remove_partials
from finetune.formats.model_folder import check_free


def check_form(name: str, made: Made, out: Path, weight: float, rank: int | None) -> None:
    """Makes sure that something can be written in a form and place; before any model is loaded.

    Args:
        name: Of the form.
        made: What is to be written.
        out: Where.
        weight: The LoRA's weight that was asked for.
        rank: The rank that was asked for, if any.

    Raises:
        ConfigError: If it makes no sense, with what would; or if something is there already.
    """
    check_free(out)
    form = FORMS[name]
    if made.kind not in form.writers:
        others = [other for other, row in FORMS.items() if made.kind in row.writers]
        wanted = " or ".join(KINDS[kind] for kind in form.writers)
        raise ConfigError(
            f"This is {KINDS[made.kind]}, but --to {name} is made from {wanted}.",
            where=str(made.path),
            fix=f"Use --to {', '.join(others)}.",
        )
    if form.folder == (out.suffix == ".safetensors"):
        what, name_it = ("folder", out.stem) if form.folder else ("file", f"{out.name}.safetensors")
        raise ConfigError(f"--to {name} writes a {what}.", where=str(out), fix=f"Name it {name_it}.")
    if weight != 1 and not (form.weighted and made.kind == "lora"):
        raise _no_effect("--weight", name, [n for n, row in FORMS.items() if row.weighted])
    if rank is not None and not form.ranked:
        raise _no_effect("--rank", name, [n for n, row in FORMS.items() if row.ranked])


def _no_effect(flag: str, name: str, others: list[str]) -> ConfigError:
    return ConfigError(
        f"{flag} has no effect here.",
        where=f"--to {name}",
        fix=f"Leave it out; it is for LoRAs with --to {', '.join(others)}.",
    )


def export(name: str, made: Made, job: Job) -> str:
    """Writes something in a form.

    Args:
        name: Of the form.
        made: What is written.
        job: How.

    Returns:
        A sentence for the user: what reads it.

    Raises:
        ConfigError: If something is there already.
        WeightsError: If the source is damaged or does not fit the model; nothing is written then.
    """
    check_free(job.out)
    remove_partials(job.out.parent)
    sentence: str = imported(FORMS[name].writers[made.kind])(job)
    return sentence
