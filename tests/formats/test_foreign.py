"""Whatever file is given where another is wanted: it is named, with what to do, and nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune.backbones import Backbone, load_backbone
from finetune.backbones.controlnet import read_branch
from finetune.backbones.kinds import KINDS
from finetune.cli import main
from finetune.config import ModelSection
from finetune.errors import UserError
from finetune.formats import read_embedding, read_lora
from tests.formats.foreign import DAMAGED, FOREIGN, SHAPES, write_foreign

# By the flag that the file is given with: how it is read, and which kinds it is for (here for a part).
READERS: dict[str, tuple[Callable[[Path, Backbone, Path], Any], tuple[str, ...]]] = {
    "--lora": (lambda file, model, _: read_lora(file, model), ("LoRA",)),
    "--embedding": (lambda file, model, _: read_embedding(file, model), ("embedding",)),
    "--controlnet": (
        lambda file, model, _: read_branch(file, model),
        ("ControlNet", "ControlNet of diffusers", "Control-LoRA"),
    ),
    "--model": (lambda file, *_: load_backbone(ModelSection(name=str(file))), ("checkpoint", "UNet")),
    "vae": (
        lambda file, _, folder: load_backbone(ModelSection(name=str(folder), vae=file)),
        ("VAE", "VAE alone", "VAE of diffusers"),
    ),
}


@pytest.mark.parametrize("flag", READERS)
def test_what_is_something_else_is_named(
    flag: str, loaded: dict[str, Backbone], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    read, own = READERS[flag]
    for kind, said in FOREIGN.items():
        if kind in own:
            continue
        file = write_foreign(tmp_path, kind)
        with pytest.raises(UserError) as caught:
            read(file, loaded["sd1"], tiny_models["sd1"])
        error = caught.value
        assert error.exit_code == 2 and error.fix and error.where == str(file), kind
        if flag == "--lora" and kind == "LoRA of Flux":
            said = "made for Flux"
        assert said in f"{error.what} {error.fix}", (kind, error.what)


@pytest.mark.parametrize("flag", READERS)
def test_what_is_damaged_is_told(
    flag: str, loaded: dict[str, Backbone], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    for kind in DAMAGED:
        file = write_foreign(tmp_path, kind)
        with pytest.raises(UserError, match="truncated") as caught:
            READERS[flag][0](file, loaded["sd1"], tiny_models["sd1"])
        assert caught.value.exit_code == 2 and caught.value.fix and caught.value.where == str(file), kind


def test_every_kind_has_a_file_here() -> None:
    assert {kind.what for kind in KINDS} == set(FOREIGN.values())
    assert SHAPES.keys() == FOREIGN.keys()


@pytest.mark.parametrize(
    "arguments",
    [
        ["sample", "a cat", "--steps", "1", "--lora", "{file}"],
        ["sample", "a cat", "--steps", "1", "--embedding", "{file}"],
        ["sample", "a cat", "--steps", "1", "--controlnet", "{file}:{picture}"],
        ["export", "{file}", "--to", "kohya", "-o", "out.safetensors"],
        ["resize", "{file}", "--rank", "1", "--output", "out.safetensors"],
        ["lora", "--instance-dir", "{pictures}", "--vae", "{file}"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[-2:-1]),
)
@pytest.mark.parametrize("kind", ["T2I-Adapter", "IP-Adapter of faces", "cut in the tensors"])
def test_commands_write_nothing(
    arguments: list[str],
    kind: str,
    tiny_models: dict[str, Path],
    pictures: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = write_foreign(here, kind)
    places = {"file": file.name, "picture": pictures / "0.png", "pictures": pictures}
    before = sorted(here.iterdir())
    told = [part.format(**places) for part in arguments]
    assert main([*told, "--model", str(tiny_models["sd1"])]) == 2
    said = capsys.readouterr().err
    assert file.name in said and (FOREIGN.get(kind) or "truncated") in said
    assert sorted(here.iterdir()) == before
