"""Runs that learn a new word, alone and with a LoRA."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file

from finetune.errors import ConfigError, DataError
from finetune.recipes.load import Setting, build, load_recipe, parse_set
from finetune.recipes.run import Result, run
from finetune.sampling import Sampler

SMALL = ("training.steps=3", "preview.every=0", "training.checkpoint_every=1")
ALONE = "learned_embeds.safetensors"
one_family = pytest.mark.parametrize("family", ["sd1"], indirect=True)
pytestmark = pytest.mark.usefixtures("here")


def train(kind: str, pictures: Path, model: Path, *changes: str, said: list[str] | None = None) -> Result:
    given = [
        Setting("data.instance_dir", pictures, "--instance-dir"),
        Setting("model.name", str(model), "--model"),
    ]
    recipe = build(kind, [*given, *(parse_set(change) for change in (*SMALL, *changes))])
    return run(recipe, tell=(said if said is not None else []).append)


def test_a_word_alone(tiny_folder: Path, pictures: Path) -> None:
    said: list[str] = []
    result = train(
        "embedding", pictures, tiny_folder, "adapter.initializer=cat", "adapter.vectors=2", said=said
    )
    assert result.folder == Path("runs/mycat-embedding")
    assert {path.name for path in result.files} == {"mycat-embedding.safetensors", ALONE}
    assert any("--embedding runs/mycat-embedding" in line and "<mycat>" in line for line in said)
    resolved = load_recipe(result.folder / "recipe.yaml")
    assert resolved.model_dump()["adapter"]["placeholder"] == "<mycat>"
    with safe_open(result.folder / ALONE, framework="pt") as file:
        about = file.metadata()
    assert about["finetune.placeholder"] == about["modelspec.trigger_phrase"] == "<mycat>"
    assert about["modelspec.architecture"].endswith("/textual-inversion")

    sampler = Sampler.load(str(tiny_folder), embeddings=[result.folder, (result.folder / ALONE, "<again>")])
    (sample,) = sampler("a photo of <mycat>", steps=1)
    assert sample.info()["embeddings"] == ["<mycat>", "<again>"]
    (again,) = sampler("a photo of <again>", steps=1)
    assert again.image.tobytes() == sample.image.tobytes()
    (plain,) = Sampler.load(str(tiny_folder))("a photo of <mycat>", steps=1)
    assert plain.image.tobytes() != sample.image.tobytes() and "embeddings" not in plain.info()
    with pytest.raises(ConfigError, match="knows the word"):
        sampler.add_embedding(result.folder)


@one_family
def test_resumed_to_the_bit(tiny_folder: Path, pictures: Path, here: Path) -> None:
    whole = train("embedding", pictures, tiny_folder, "output.name=x", "training.ema=true")
    part = here / "part"
    settings = [f"output.dir={part}", "output.name=x", "training.ema=true"]
    train("embedding", pictures, tiny_folder, *settings)
    (part / ALONE).unlink()
    _, *later = sorted((part / "checkpoints").iterdir())
    assert later
    for folder in later:
        shutil.rmtree(folder)
    given = [Setting("data.instance_dir", pictures, "x"), Setting("model.name", str(tiny_folder), "x")]
    recipe = build("embedding", [*given, *(parse_set(change) for change in (*SMALL, *settings))])
    run(recipe, resume=True, tell=lambda line: None)
    assert (part / ALONE).read_bytes() == (whole.folder / ALONE).read_bytes()


def test_a_word_with_a_lora(tiny_folder: Path, pictures: Path) -> None:
    changes = ("adapter.placeholder=<mycat>", "adapter.rank=2", "optimizer.embedding_lr=0.1")
    result = train("lora", pictures, tiny_folder, *changes)
    names = {path.name for path in result.files}
    assert names == {"mycat-lora.safetensors", "pytorch_lora_weights.safetensors", "mycat.safetensors", ALONE}
    sampler = Sampler.load(str(tiny_folder), loras=[result.folder])
    from_folder = sampler("<mycat>", steps=1)[0].image.tobytes()
    # A1111's file carries the word too.
    sampler = Sampler.load(str(tiny_folder), loras=[result.folder / "mycat-lora.safetensors"])
    assert sampler("<mycat>", steps=1)[0].image.tobytes() == from_folder


@one_family
def test_loha_and_lokr_runs(tiny_folder: Path, pictures: Path) -> None:
    for algorithm, key in (("loha", "hada_w1_a"), ("lokr", "lokr_w1")):
        result = train(
            "lora",
            pictures,
            tiny_folder,
            f"adapter.algorithm={algorithm}",
            "adapter.rank=2",
            "adapter.block_rank={mid_block: 1, up_blocks.1.attentions.0: 0}",
            f"output.name={algorithm}",
        )
        tensors = load_file(result.folder / f"{algorithm}.safetensors")
        layers = {name.partition(".")[0] for name in tensors if name.endswith(key)}
        assert any("mid_block" in name for name in layers)
        assert not any("up_blocks_1_attentions_0" in name for name in layers)
        resolved = load_recipe(result.folder / "recipe.yaml").model_dump()["adapter"]
        assert resolved["block_rank"] == {"mid_block": 1, "up_blocks.1.attentions.0": 0}


@one_family
def test_captions_must_say_the_word(tiny_folder: Path, pictures: Path, here: Path) -> None:
    with pytest.raises(DataError, match="No caption contains <mycat>"):
        train("embedding", pictures, tiny_folder, "data.instance_prompt=a cat")
    folder = here / "some"
    folder.mkdir()
    for picture in pictures.glob("[0-9].png"):
        (folder / picture.name).write_bytes(picture.read_bytes())
    (folder / "0.txt").write_text("a cat")
    for number in range(4):
        (folder / f"bad-{number}.jpg").write_bytes(b"")
        (folder / f"note-{number}.doc").write_bytes(b"")
    said: list[str] = []
    result = train("embedding", folder, tiny_folder, said=said)
    assert any(line == "1 caption without <some>: 0.png" for line in said)
    left_out = (result.folder / "skipped.txt").read_text().splitlines()
    assert left_out == [f"bad-{number}.jpg\tthe file is empty" for number in range(4)] + [
        f"note-{number}.doc\tnot a picture, ignored" for number in range(4)
    ]


@pytest.mark.parametrize(
    ("kind", "change", "told"),
    [
        ("lora", "adapter.initializer=cat", "no effect"),
        ("lora", "optimizer.embedding_lr=0.1", "none is trained"),
        ("embedding", "optimizer.embedding_lr=0.1", "optimizer.lr"),
        ("embedding", "adapter.placeholder=My Cat", "one word"),
        ("lora", "adapter.factor=4", "no effect"),
    ],
)
def test_contradictions(kind: str, change: str, told: str, here: Path) -> None:
    with pytest.raises(ConfigError, match=told):
        build(kind, [Setting("data.instance_dir", here, "--instance-dir"), parse_set(change)])
