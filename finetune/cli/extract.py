"""`finetune extract`: a LoRA from the difference of two models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli.files import limit_flags, target, target_flags, tell_kept
from finetune.cli.flags import SettingsCommand, given_model, model_flags
from finetune.cli.imports import large_imports
from finetune.cli.terminal import progress, quiet_loading, size, tell, tell_end
from finetune.config import ModelSection
from finetune.errors import ConfigError
from finetune.recipes.load import MODEL_KEYS

if TYPE_CHECKING:
    from finetune.tools.extract import Extracted


def _extract(
    tuned: Path,
    output: Path,
    to: str,
    dtype: str | None,
    force: bool,
    rank: int | None,
    energy: float | None,
    model: str | None,
    changes: tuple[str, ...],
) -> None:
    given = given_model(model, changes)
    with large_imports():
        from finetune.backbones import load_stored
        from finetune.tools import Limit, extract, relative_error
        from finetune.tools.extract import told_by

        quiet_loading()
    limit = Limit(rank, energy)
    limit.check()
    made = target(output, to, dtype, force)
    section = _base(tuned, given)
    tell(f"The difference of {tuned} from {section.name}.")
    trained = section.model_copy(update={"name": str(tuned), "revision": None})
    base, other = load_stored(section), load_stored(trained)
    with progress("Extracting") as report:
        found = extract(base, other, made, limit, section, told_by(tuned), report)
    tell_kept(found.layers)
    for line in _elsewhere(found):
        tell(line)
    tell_end(
        f"Wrote {output} ({size(output.stat().st_size)}). What was cut to the rank differs from the whole by "
        f"{relative_error(found.layers):.2%}.",
        [output],
    )


def _base(tuned: Path, given: ModelSection) -> ModelSection:
    """The model that another was trained from: the one named, or the one that its recipe says."""
    from finetune.recipes.model import model_of, resolved

    told = model_of(tuned)
    if "name" not in given.model_fields_set and told is None:
        raise ConfigError(
            "Nothing tells which model this one was trained from.",
            where=str(tuned),
            fix="Name it with --model.",
        )
    changes = given.model_dump(exclude_unset=True)
    return resolved((told or given).model_copy(update=changes))[0]


def _elsewhere(found: Extracted) -> Iterator[str]:
    """What of the difference is not in the file (P3)."""
    parts: Sequence[str] = [part for part in found.elsewhere if part != "vae"]
    if parts:
        yield (
            f"{1 - found.held:.2%} of the squared difference is in biases, norms and embeddings of "
            f"{' and '.join(parts)}, which a LoRA cannot hold: it is left out."
        )
    if "vae" in found.elsewhere:
        yield "The VAE differs too, which a LoRA cannot hold: it is left out."


extract_command = SettingsCommand(
    "extract",
    callback=_extract,
    help="Write the difference of two models as a LoRA. TUNED is a model that was trained from another one: "
    "a run folder, a diffusers folder or a checkpoint file.",
    params=[
        click.Argument(["tuned"], type=click.Path(path_type=Path), metavar="TUNED"),
        *target_flags("fp32"),
        *limit_flags(),
        *model_flags("the model that TUNED's recipe says it was trained from"),
    ],
    keys=MODEL_KEYS,
)
