"""What `finetune sample --from PICTURE` takes from a picture, and what must be given with it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from finetune.cli.named_loras import find_named
from finetune.errors import ConfigError
from finetune.recipes.load import Setting

if TYPE_CHECKING:
    from finetune.sampling.recorded import Recorded
    from finetune.sampling.sample import Sample


def settings_of(record: Recorded) -> list[Setting]:
    """The settings that a picture was made with, to be followed by those of flags."""
    origin = f"--from {record.path}"
    values = {f"sampling.{key}": value for key, value in record.settings.items()}
    if record.model is not None:
        values["model.name"] = record.model
    if record.quantize is not None:
        values["model.quantize"] = record.quantize
    if record.max_tokens is not None:
        values["model.max_tokens"] = record.max_tokens
    return [Setting(key, value, origin) for key, value in values.items()]


def found_loras(record: Recorded) -> list[tuple[Path, float]]:
    """The LoRAs that a picture was made with, found by their names.

    Raises:
        ConfigError: One is not there.
    """
    where = f"--from {record.path}"
    return [find_named(name, weight, where, record.path.parent) for name, weight in record.loras]


def check_complete(
    record: Recorded, inputs: dict[str, Path | None], embeddings: Sequence[str], controls: int
) -> None:
    """Refuses a picture whose inputs have not been given.

    Args:
        record: What it says.
        inputs: By what they are for ("init", "mask"), the pictures that were given.
        embeddings: What was given with `--embedding`.
        controls: How many `--controlnet` were given.

    Raises:
        ConfigError: It says what to give.
    """
    for what, fix in _missing(record, inputs, embeddings, controls):
        raise ConfigError(f"The picture was made {what}.", where=f"--from {record.path}", fix=f"Give {fix}.")


def _missing(
    record: Recorded, inputs: dict[str, Path | None], embeddings: Sequence[str], controls: int
) -> Iterator[tuple[str, str]]:
    for name, said in record.given.items():
        if name in inputs and inputs[name] is None:
            called = f", {said['name']}" if "name" in said else ""
            what = "from another picture" if name == "init" else "with a mask"
            yield what + called, f"it with --{name}"
    if len(record.embeddings) > len(embeddings):
        yield f"with the new word {', '.join(record.embeddings)}", "what taught it with --embedding"
    if len(record.controlnets) > controls:
        names = ", ".join(str(control.get("name")) for control in record.controlnets)
        yield f"with a ControlNet ({names})", "ControlNet and control picture with --controlnet"


def remarks(record: Recorded, made: Sample) -> list[str]:
    """What the user should know of a picture that was made again: what differs from what it says."""
    given = dict(made.given)
    flags = [
        "--controlnet" if name.startswith("control ") else f"--{name}"
        for name, said in record.given.items()
        if "sha256" in said and said["sha256"] != given.get(name, {}).get("sha256")
    ]
    others = [f"The picture given with {flag} is not the one that it was made from." for flag in flags]
    return [*record.notes, *others]
