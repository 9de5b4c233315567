"""Whole runs on streams: what they leave, how they resume, what they refuse."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import pytest
from safetensors.torch import load_file

from finetune.errors import ConfigError, DataError, UserError
from finetune.files import sha256_of
from finetune.recipes import Recipe, build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import Result, run
from tests.data.streams.shards import held, members, write_shard, write_shards

SMALL = ("training.steps=6", "training.batch_size=2", "training.accumulation=1",
         "training.checkpoint_every=1", "training.keep_checkpoints=9", "training.log_every=1",
         "preview.every=0", "optimizer.warmup_steps=0", "optimizer.name=adamw",
         "data.shuffle_buffer=4", "training.precision=fp32")  # fmt: skip
RESULTS = {
    "lora": "pytorch_lora_weights.safetensors",
    "full": "model/unet/diffusion_pytorch_model.safetensors",
    "controlnet": "controlnet/diffusion_pytorch_model.safetensors",
}


@pytest.fixture(autouse=True)
def shards(here: Path) -> Path:
    """Runs go below a working directory that holds seven samples in three shards."""
    return write_shards(here / "shards", 7, 3)


def recipe(kind: str, model: Path, *changes: str, place: str = "shards") -> Recipe:
    field = "data.instance_dir" if kind == "lora" else "data.data_dir"
    given = [Setting(field, place, "here"), Setting("model.name", str(model), "here")]
    given = given[:1] if kind == "pretrain" else given
    return build(kind, [*given, *(parse_set(change) for change in (*SMALL, *changes))])


def train(this: Recipe, resume: bool = False) -> tuple[Path, list[str]]:
    said: list[str] = []
    result: Result = run(this, resume=resume, tell=said.append)
    return result.folder, said


@pytest.mark.parametrize("kind", RESULTS)
def test_a_killed_run_resumes_to_the_same_bytes(kind: str, tiny_models: dict[str, Path]) -> None:
    this = recipe(kind, tiny_models["sd1"], "data.flip=true")
    folder, said = train(this)
    assert any("3 shards of shards, read as a stream; 4 pictures" in line for line in said)
    whole = {path: sha256_of(folder / path) for path in (RESULTS[kind], "stream.jsonl", "pictures.jsonl")}
    lines = [json.loads(line) for line in (folder / "stream.jsonl").read_text().splitlines()]
    # 12 samples of 7 pictures, 4 at a time; in the middle of the first block and of the third.
    assert [line["start"] for line in lines] == [0, 4, 7, 11]
    for step, known in ((1, True), (4, True), (4, False)):
        shutil.rmtree(folder / Path(RESULTS[kind]).parts[0], ignore_errors=True)
        (folder / RESULTS[kind]).unlink(missing_ok=True)
        for later in range(step + 1, 7):
            shutil.rmtree(folder / "checkpoints" / f"step-{later:06d}")
        if not known:
            (folder / "stream.jsonl").unlink()
        again, said = train(this, resume=True)
        assert again == folder
        assert f"Resuming from step {step} of 6." in said
        assert sha256_of(folder / RESULTS[kind]) == whole[RESULTS[kind]]
        assert sha256_of(folder / "pictures.jsonl") == whole["pictures.jsonl"]
        assert sha256_of(folder / "stream.jsonl") == whole["stream.jsonl"]


def test_accumulated_batches_are_one_large_one(tiny_models: dict[str, Path]) -> None:
    weights = []
    for changes in ((), ("training.batch_size=1", "training.accumulation=2")):
        folder, _ = train(recipe("lora", tiny_models["sd1"], "optimizer.eps=1e-4", *changes))
        weights.append(load_file(folder / RESULTS["lora"]))
    for name, value in weights[0].items():
        assert (weights[1][name] - value).abs().max() < 1e-6
    assert any(
        value.abs().max() > 1e-6 for name, value in weights[0].items() if "lora_B" in name or "up" in name
    )


def test_what_a_stream_leaves(tiny_models: dict[str, Path]) -> None:
    bare = {name: data for name, data in members(8).items() if not name.endswith(".txt")}
    write_shard(Path("shards/03.tar"), [{**members(7), "007.png": b"no picture"}, bare])
    previews = ("preview.every=6", "preview.steps=1", "preview.num=2")
    folder, said = train(recipe("controlnet", tiny_models["sd1"], *previews))
    text = "\n".join(said)
    assert "Training 6 steps of 2 pictures; the results go to" in text
    assert sum("skipped 03.tar/007.png: " in line for line in said) == 2, "at the beginning and at the end"
    assert 'without a caption got ""' in text
    entries = [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]
    assert [entry["file"] for entry in entries] == ["00.tar", "01.tar", "02.tar", "03.tar"]
    assert (folder / "samples" / "step-000006.png").is_file()
    assert "cache: false" in (folder / "recipe.yaml").read_text()


def test_parquet(shards: Path, tiny_models: dict[str, Path]) -> None:
    pictures = [data for name, data in held(shards).items() if "conditioning" not in name and ".png" in name]
    rows = {"image": [{"bytes": data, "path": None} for data in pictures], "text": ["a cat"] * len(pictures)}
    table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    Path("rows").mkdir()
    table.to_parquet("rows/0.parquet")
    folder, said = train(recipe("full", tiny_models["sd1"], "data.streaming=true", place="rows"))
    assert any("1 shard of rows, read as a stream" in line for line in said)
    assert (folder / RESULTS["full"]).is_file()


def test_a_resumed_run_notices_other_shards(tiny_models: dict[str, Path]) -> None:
    this = recipe("lora", tiny_models["sd1"])
    folder, _ = train(this)
    (folder / RESULTS["lora"]).unlink()
    shutil.rmtree(folder / "checkpoints" / "step-000006")
    write_shard(Path("shards/01.tar"), [members(n) for n in (13, 14, 15)])
    with pytest.raises(ConfigError, match=r"has changed: the content of 01\.tar"):
        train(this, resume=True)


def test_a_shard_that_ends_in_the_middle_of_a_run(tiny_models: dict[str, Path]) -> None:
    last = write_shard(Path("shards/02.tar"), [members(n) for n in range(7, 120)])
    last.write_bytes(last.read_bytes()[:-20_000])
    this = recipe("lora", tiny_models["sd1"], "data.shuffle_buffer=1000", "training.steps=2")
    with pytest.raises(DataError, match="The stream cannot be read on: unexpected end of data") as caught:
        train(this)
    assert caught.value.where == "02.tar" and "--resume" in str(caught.value.fix)


@pytest.mark.parametrize(
    ("kind", "changes", "word"),
    [
        ("full", ["training.epochs=2"], "training.steps"),
        ("full", ["data.validation=0.5"], "data.validation_dir"),
        ("full", ["data.cache_dir=cache"], "not kept"),
        ("full", ["data.mask=alpha"], "no masks"),
        ("lora", ["data.class_prompt=a cat"], "not for a stream"),
        ("full", ["data.sources=[{dir: more}]"], "shards is read as a stream, which cannot be joined"),
        ("full", ["data.color_jitter=0.1", "data.variants=3"], "no end of crops and colors"),
        ("full", ["data.validation_dir=shards/00.tar"], "cannot be a stream"),
        ("controlnet", ["data.conditioning_dir=shards"], r"NAME\.conditioning\.png"),
        ("pretrain", [], "several times"),
        ("full", ["data.split=test"], "no split 'test'; there is train"),
        ("full", ["data.image_column=jpg"], "no column 'jpg'"),
    ],
)
def test_what_a_stream_cannot_do_is_refused(
    here: Path, tiny_models: dict[str, Path], kind: str, changes: list[str], word: str
) -> None:
    with pytest.raises(UserError, match=word) as caught:
        train(recipe(kind, tiny_models["sd1"], *changes))
    assert caught.value.fix
    assert [path.name for path in here.iterdir()] == ["shards"]


@pytest.mark.parametrize(
    ("kind", "more"), [("lora", ""), ("lora", ", class_pictures: true"), ("controlnet", "")]
)
def test_a_stream_is_no_further_folder(
    kind: str, more: str, here: Path, tiny_models: dict[str, Path]
) -> None:
    folder = (here / "shards").rename(here / "more").parent / "shards"
    folder.mkdir()
    (folder / "1.png").write_bytes(members(1)["001.png"])
    this = recipe(kind, tiny_models["sd1"], f"data.sources=[{{dir: more{more}}}]")
    with pytest.raises(ConfigError, match="more is read as a stream, which cannot be joined") as caught:
        train(this)
    assert caught.value.where == "data.sources" and caught.value.fix
    assert sorted(path.name for path in here.iterdir()) == ["more", "shards"]


def test_validation_with_a_folder(tiny_models: dict[str, Path]) -> None:
    Path("held").mkdir()
    Path("held/1.png").write_bytes(members(1)["001.png"])
    folder, _ = train(
        recipe("full", tiny_models["sd1"], "data.validation_dir=held", "data.validation_every=3")
    )
    assert len((folder / "validation.jsonl").read_text().splitlines()) == 2
