"""`finetune inspect`: what is in a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from finetune.cli.files import structure, structure_flags
from finetune.cli.flags import SettingsCommand
from finetune.cli.imports import large_imports
from finetune.cli.style import json_flag
from finetune.cli.terminal import size, table, tell_answer
from finetune.config import ModelSection
from finetune.errors import ModelError
from finetune.recipes.faults import cut
from finetune.recipes.load import MODEL_KEYS


def _inspect(file: Path, as_json: bool, model: str | None, changes: tuple[str, ...]) -> None:
    with large_imports():
        from finetune.backbones.load import is_model
    found = _model(file) if is_model(str(file)) else _other(file, model, changes)
    if as_json:
        print(json.dumps(found), flush=True)
        return
    for line in _lines(found):
        tell_answer(line)


def _model(file: Path) -> dict[str, Any]:
    from finetune.backbones.resolve import place
    from finetune.backbones.skeleton import skeleton
    from finetune.recipes.model import resolved
    from finetune.tools.describe_others import describe_model

    section = resolved(ModelSection.named(str(file)))[0]
    if (backbone := skeleton(section)) is None or not place(str(file)).exists():
        raise ModelError(
            f"There is no model {section.name!r} on this machine.", fix="Give a file, or a model's folder."
        )
    return describe_model(str(file), backbone)


def _other(file: Path, model: str | None, changes: tuple[str, ...]) -> dict[str, Any]:
    from finetune.formats.embeddings import learned_words
    from finetune.formats.read import DIFFUSERS_FILE
    from finetune.tools import describe
    from finetune.tools.describe_others import describe_embedding
    from finetune.tools.describe_parts import describe_part

    if (part := describe_part(file)) is not None:
        return part
    word = learned_words(file) if not (file / DIFFUSERS_FILE).is_file() else None
    if (word or file).is_file() and (found := describe_embedding(word or file)) is not None:
        return found
    return describe(file, structure([file], model, changes))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    """The report for people."""
    kind, dtypes = " and ".join(found["kinds"]), ", ".join(found["dtypes"])
    family = found["family"] or "an unknown family"
    model = f" ({found['model']})" if "model" in found else ""
    layout = f", with the key names of {found['layout']}" if "layout" in found else ""
    start = f"{found['file']}: {_article(kind)} {kind} for {family}{model}"
    if "predicts" in found:
        start = f"{found['file']}: a whole model, {family}"
    yield f"{start}{layout}, {dtypes}, {size(found['bytes'])}."
    if "predicts" in found:
        yield from _about_model(found)
    if "blocks" in found:
        yield from _blocks(found)
    for word in found.get("words", ()):
        yield f"New word: {word['word']} ({word['vectors']} vectors)."
    yield f"Loads in: {', '.join(found['loads_in'])}."
    yield from found.get("notes", ())
    for key, value in found.get("trained", {}).items():
        shown = ", ".join(f"{tag} ({count})" for tag, count in value.items()) if key == "tags" else value
        yield f"  {key.replace('_', ' ')}: {cut(str(shown))}"
    if found.get("origin"):
        yield f"Made by {found['origin']}."
    if not found["metadata"]:
        yield "It has no metadata."


def _article(kind: str) -> str:
    return "an" if kind[0] in "eIu" else "a"


def _about_model(found: dict[str, Any]) -> Iterator[str]:
    predicts = found["predicts"] or "what its family does (the file does not say it)"
    mask = ", and takes a mask (inpainting)" if found["inpainting"] else ""
    yield f"The UNet predicts {predicts}{mask}."
    for part, number in found["parameters"].items():
        yield f"  {part}: {number / 1e6:.1f} million parameters"


def _blocks(found: dict[str, Any]) -> Iterator[str]:
    from finetune.tools.blocks import span

    rows = [("block", "layers", "rank", "alpha", "norm")]
    for block in found["blocks"]:
        sizes = str(block["layers"]), span(block["rank"]), span(block["alpha"])
        rows.append((block["block"], *sizes, f"{block['norm']:.3g}"))
    layers = str(sum(block["layers"] for block in found["blocks"]))
    rows.append(("all", layers, "", "", f"{found['norm']:.3g}"))
    yield from table(rows, right={1, 2, 3, 4})


inspect_command = SettingsCommand(
    "inspect",
    callback=_inspect,
    help="Say what is in a LoRA file: family, layout, ranks, norms, how it was made, where it loads; also of "
    "an embedding, a ControlNet, another part or a whole model. FILE may be a run's folder or a model's.",
    params=[
        click.Argument(["file"], type=click.Path(path_type=Path), metavar="FILE"),
        json_flag("Write it as JSON, with all metadata."),
        *structure_flags(),
    ],
    keys=MODEL_KEYS,
)
