"""LoRAs that are known by their names: from `<lora:NAME:WEIGHT>` in prompts, or from what a picture says."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune.errors import ConfigError


def find_named(name: str, weight: float, where: str, beside: Path | None = None) -> tuple[Path, float]:
    """A LoRA by its name: a run folder in `runs`, or a file or folder here or in `beside`.

    Raises:
        ConfigError: It is not there.
    """
    file = f"{name}.safetensors"
    places = [Path("runs") / name, Path(name), Path(file), *([beside / file] if beside else [])]
    bare = Path(name).name == name  # the text of a picture or prompt names a file, not a place
    for place in places if bare else ():
        if place.exists():
            return place, weight
    raise ConfigError(
        f"There is no LoRA called {name} in runs or in this folder.",
        where=where,
        fix=f"Give it with --lora PATH:{weight:g} instead.",
    )


def prompts_and_loras(prompts: Sequence[str]) -> tuple[tuple[str, ...], list[tuple[Path, float]]]:
    """Prompts without their `<lora:NAME:WEIGHT>`, and the LoRAs that these name.

    Raises:
        ConfigError: One is not there or says more than name and weight, or prompts name different ones, which
            a model cannot have at once.
    """
    from finetune.sampling.emphasis import lora_tags

    try:
        found = [lora_tags(prompt) for prompt in prompts]
    except ValueError as error:
        fix = "Write <lora:NAME:WEIGHT>, e.g. <lora:mycat-lora:0.8>."
        raise ConfigError("The weight of a LoRA is not a number.", where="PROMPT", fix=fix) from error
    for more in (more for tagged in found for more in tagged.unread):
        raise ConfigError(
            f"Of a LoRA that a prompt names, name and weight are read, and {more} is not.",
            where="PROMPT",
            fix="Write <lora:NAME:WEIGHT>; weights by block are --set sampling.lora_blocks.",
        )
    if len({tagged.loras for tagged in found}) > 1:
        raise ConfigError(
            "The prompts name different LoRAs.",
            where="PROMPT",
            fix="Name the same in all of them, or sample one after the other.",
        )
    loras = found[0].loras if found else ()
    named = [find_named(name, weight, f"<lora:{name}:{weight:g}>") for name, weight in loras]
    return tuple(tagged.prompt for tagged in found), named
