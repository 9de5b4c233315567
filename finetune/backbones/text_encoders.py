"""Text encoders of the user's choice, in place of the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from finetune.backbones.names import numbered
from finetune.backbones.part import load_part, read_json
from finetune.errors import ModelError

_FIX = (
    "Give a diffusers folder of a model of the same family, or a run folder with one, as model.text_encoders."
)


def load_text_encoders(
    given: Path, configs: Path | None, kinds: Sequence[type[Any]], allow_pickle: bool, notes: list[str]
) -> tuple[Any, ...]:
    """Loads all text encoders of a model, in the type that their files have them in.

    Args:
        given: A diffusers folder of a model, or a run folder with a whole model.
        configs: The folder of the model that they become part of; its configurations, where it has some,
            say what the UNet needs.
        kinds: Their classes.
        allow_pickle: Whether the user allows weights in a pickle.
        notes: Gets a line that says which are used.

    Raises:
        ModelError: If there are none, or they are damaged or those of another family.
    """
    path = given.expanduser()
    names = numbered("text_encoder", len(kinds))
    folder = next((one for one in (path / "model", path) if (one / names[0] / "config.json").is_file()), None)
    if folder is None or not all((folder / name / "config.json").is_file() for name in names):
        count = "text encoder" if len(names) == 1 else f"{len(names)} text encoders"
        raise ModelError(f"There is no {count} in {str(given)!r}.", where="model.text_encoders", fix=_FIX)
    for name in names:
        own = configs / name / "config.json" if configs else None
        if own and own.is_file():
            _check_width(read_json(folder / name / "config.json"), read_json(own), folder / name)
    encoders = tuple(
        load_part(kind, folder / name, allow_pickle, notes) for kind, name in zip(kinds, names, strict=True)
    )
    what = "text encoder is that" if len(names) == 1 else "text encoders are those"
    notes.append(f"The {what} of {given} (model.text_encoders).")
    return encoders


def _check_width(config: dict[str, Any], wanted: dict[str, Any], where: Path) -> None:
    """The UNet's cross-attention takes embeddings of one width only."""
    width, needed = config.get("hidden_size"), wanted.get("hidden_size")
    if width != needed:
        raise ModelError(
            f"The text encoder is made for another family of models: its embeddings have {width} values, "
            f"and this model's {needed}.",
            where=str(where),
            fix=_FIX,
        )
