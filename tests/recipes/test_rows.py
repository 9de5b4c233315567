"""Data sets of Hugging Face: every recipe ends in the weights that a folder of the same pictures gives."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Image
from safetensors.torch import load_file

from finetune.cli import main
from finetune.errors import ConfigError, DataError
from finetune.recipes import RECIPES, build
from finetune.recipes.load import Setting, parse_set
from finetune.recipes.run import run
from tests.battery.cases import SMALL
from tests.data.conftest import painted
from tests.data.rows.made import FORMS, cells, dataset, of_folder
from tests.recipes.test_pretrain import SMALL as PRETRAINED

Output = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("here")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache of datasets")
    datasets.disable_progress_bars()


@pytest.fixture
def cats() -> Path:
    """A folder of four captioned pictures in two shapes, with control pictures that metadata.jsonl names."""
    folder = Path("cats")
    folder.mkdir()
    for number in range(4):
        shape = (40, 32) if number % 2 else (32, 40)
        painted(*shape, number).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a photo of <cat>, {number}")
    return folder


def with_controls(cats: Path) -> tuple[Path, Path]:
    """Pairs as a folder, and as a data set."""
    files = sorted(cats.glob("*.png"))
    pairs = Path("pairs")
    shutil.copytree(cats, pairs)
    lines = []
    for file in files:
        shape = (20, 16) if int(file.stem) % 2 else (16, 20)
        painted(*shape, 10 + int(file.stem)).save(pairs / f"edges{file.name}")
        text = file.with_suffix(".txt").read_text()
        lines.append({"file_name": file.name, "conditioning_image": f"edges{file.name}", "text": text})
    (pairs / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    columns = {
        "image": cells(files),
        "conditioning_image": cells([pairs / f"edges{file.name}" for file in files]),
        "text": [line["text"] for line in lines],
    }
    rows = dataset(columns, image=Image(), conditioning_image=Image())
    return pairs, FORMS["save_to_disk"](rows, Path("rows"), cats)


def train(kind: str, model: Path, place: Path, *changes: str, resume: bool = False) -> tuple[Path, str]:
    said: list[str] = []
    small = [f"model.name={model}", *SMALL] if kind != "pretrain" else PRETRAINED
    own = {
        "embedding": ("adapter.placeholder=<cat>",),
        "dreambooth": ("data.class_prompt=a cat", "data.num_class_images=1", "output.weights=fp32"),
    }
    given = [*small, "training.steps=2", "preview.every=0", *own.get(kind, ()), *changes]
    settings = [Setting(f"data.{RECIPES[kind].folder_field}", place, "--dir")]
    settings += {setting.key: setting for setting in map(parse_set, given)}.values()
    return run(build(kind, settings), resume=resume, tell=said.append).folder, "\n".join(said)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(
        f for f in folder.rglob("*.safetensors") if not {"checkpoints", "results-step-000002"} & {*f.parts}
    )
    assert files
    return {f"{f.relative_to(folder)} {k}": t for f in files for k, t in load_file(f).items()}


@pytest.mark.parametrize("kind", RECIPES)
def test_every_recipe_ends_in_the_weights_that_a_folder_gives(
    kind: str, cats: Path, tiny_models: dict[str, Path]
) -> None:
    places = cats, FORMS["folder of Parquet"](of_folder(cats), Path("rows"), cats)
    if kind == "controlnet":
        shutil.rmtree("rows")
        places = with_controls(cats)
    changes = ("output.name=it", "data.caption_dropout=0.3")
    folder, _ = train(kind, tiny_models["sd1"], places[0], "output.dir=one", *changes)
    rows, said = train(kind, tiny_models["sd1"], places[1], "output.dir=two", *changes)
    assert "4 pictures from rows" in said
    one, two = weights(folder), weights(rows)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    pictures = [(line["file"], line["sha256"], line["caption"]) for line in record(rows)]
    assert pictures == [(line["file"], line["sha256"], line["caption"]) for line in record(folder)]


def record(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]


def test_a_run_on_rows_resumes_and_notices_what_changed(cats: Path, tiny_models: dict[str, Path]) -> None:
    place = FORMS["save_to_disk"](of_folder(cats), Path("rows"), cats)
    whole, _ = train(
        "lora", tiny_models["sd1"], place, "output.dir=whole", "output.name=it", "training.steps=4"
    )
    part, _ = train("lora", tiny_models["sd1"], place, "output.dir=part", "output.name=it")
    changes = ("output.dir=part", "output.name=it", "training.steps=4")
    train("lora", tiny_models["sd1"], place, *changes, resume=True)
    one, two = weights(whole), weights(part)
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)
    painted(40, 32, 99).save(cats / "1.png")
    shutil.rmtree(place)
    FORMS["save_to_disk"](of_folder(cats), place, cats)
    changes = ("output.dir=part", "output.name=it", "training.steps=6")
    with pytest.raises(ConfigError, match=r"the picture of 1\.png"):
        train("lora", tiny_models["sd1"], place, *changes, resume=True)


def test_latents_are_kept_by_content_whatever_they_come_from(
    cats: Path, tiny_models: dict[str, Path]
) -> None:
    place = FORMS["save_to_disk"](of_folder(cats), Path("rows"), cats)
    train("lora", tiny_models["sd1"], cats, "output.dir=one", "data.cache_dir=kept")
    _, said = train("lora", tiny_models["sd1"], place, "output.dir=two", "data.cache_dir=kept")
    assert "latents: 4 of 4 from the cache" in said


def test_validation_on_a_share_and_on_a_folder_or_another_data_set(
    cats: Path, tiny_models: dict[str, Path]
) -> None:
    place = FORMS["save_to_disk"](of_folder(cats), Path("rows"), cats)
    _, said = train("lora", tiny_models["sd1"], place, "output.dir=one", "data.validation=0.5")
    assert "held out for validation" in said
    for other in (cats, place):
        changes = (f"data.validation_dir={other}", "data.validation_every=1", "data.image_column=image")
        folder, _ = train("lora", tiny_models["sd1"], place, *changes)
        assert len((folder / "validation.jsonl").read_text().splitlines()) == 2


def test_class_pictures_are_files(cats: Path, tiny_models: dict[str, Path]) -> None:
    place = FORMS["save_to_disk"](of_folder(cats), Path("rows"), cats)
    with pytest.raises(DataError, match="Class pictures cannot be a data set"):
        train("dreambooth", tiny_models["sd1"], cats, f"data.class_dir={place}")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ((), "No pictures are given.*data.dataset"),
        (("data.instance_dir=cats", "data.dataset=a/b"), "given twice.*--instance-dir or data.dataset"),
        (("data.dataset=cats",), "'cats' is not the id of a data set.*OWNER/NAME"),
        (("data.instance_dir=cats", "data.revision=v1"), "no effect without data.dataset"),
        (("data.instance_dir=cats", "data.dataset_config=x"), "no effect without data.dataset"),
    ],
)
def test_settings_that_do_not_fit(changes: tuple[str, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        build("lora", map(parse_set, changes))


def test_control_pictures_are_not_given_twice() -> None:
    changes = ("data.dataset=a/b", "data.control_column=c", "data.preprocess=edges")
    with pytest.raises(ConfigError, match=r"both in a column and given by data\.preprocess"):
        build("controlnet", map(parse_set, changes))


def test_a_run_on_a_hub_data_set_is_named_after_it() -> None:
    recipe = build("lora", [parse_set("data.dataset=someone/red-cats")])
    assert recipe.run_name == "red-cats-lora" and recipe.main_folder is None


def test_check_looks_at_rows(cats: Path, capsys: Output) -> None:
    broken = {"bytes": (cats / "0.png").read_bytes()[:-60], "path": "broken.png"}
    images = [*cells(sorted(cats.glob("*.png"))), broken, None]
    place = FORMS["save_to_disk"](
        dataset({"image": images, "id": list("abcdef")}, image=Image()), Path("rows"), cats
    )
    assert main(["check", str(place), "--model", "sd15", "--set", "data.resolution=32"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "rows for finetune lora" in said and "4 pictures (4 PNG)" in said
    assert "broken.png" in said and "train[5]" in said and "columns that are not used: id" in said
    Path("mine.yaml").write_text("kind: full\ndata: {data_dir: rows, resolution: 32, caption_column: id}\n")
    assert main(["check", "--recipe", "mine.yaml", "--model", "sd15"]) == 0
    assert "4 with captions of their own" in " ".join(capsys.readouterr().out.split())
    assert main(["check"]) == 2
    assert "No pictures are given." in capsys.readouterr().err
    assert main(["check", "rows", "--set", "data.split=test"]) == 2
    assert "There is no split 'test'; there is train." in capsys.readouterr().err
