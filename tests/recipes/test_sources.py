"""Runs on several folders are those that the same pictures in one folder give, to the bit."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from finetune.data import PictureSource
from finetune.errors import ConfigError, DataError
from finetune.recipes import RECIPES, build
from finetune.recipes.fields import flatten
from finetune.recipes.load import Setting, load_recipe, parse_set
from finetune.recipes.run import assemble, run
from finetune.recipes.validation import validation_source
from finetune.training import RunFolder
from tests.battery.cases import SMALL
from tests.data.conftest import painted

pytestmark = pytest.mark.usefixtures("here")
DOCS = Path(__file__).resolve().parents[2] / "docs" / "data.md"


def make(folder: str, *numbers: int, caption: str = "") -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for number in numbers:
        painted(40, 40, number).save(f"{folder}/{number}.png")
        if caption:
            Path(f"{folder}/{number}.txt").write_text(caption)


def settings(kind: str, model: Path, main: str | None, *changes: str) -> list[Setting]:
    given = [parse_set(change) for change in (*SMALL, *changes)]
    folder = [] if main is None else [Setting(f"data.{RECIPES[kind].folder_field}", main, "")]
    return [Setting("model.name", str(model), ""), *folder, *{s.key: s for s in given}.values()]


def train(
    kind: str, model: Path, main: str | None, *changes: str, resume: bool = False
) -> tuple[Path, list[str]]:
    said: list[str] = []
    recipe = build(kind, settings(kind, model, main, *changes))
    return run(recipe, resume=resume, tell=said.append).folder, said


def same_weights(one: Path, other: Path) -> bool:
    name = "checkpoints/step-000004/weights.safetensors"
    a, b = load_file(one / name), load_file(other / name)
    return a.keys() == b.keys() and all(bool((a[key] == b[key]).all()) for key in a)


@pytest.mark.parametrize("kind", ["lora", "full", "controlnet"])
def test_a_folder_with_repeats_trains_as_kohyas_in_one(kind: str, tiny_models: dict[str, Path]) -> None:
    make("all/1_a", 1, 2, caption="a cat")
    make("all/3_b", 3, caption="a dog")
    make("b", 3, caption="a dog")
    own = ("data.preprocess=grayscale",) if kind == "controlnet" else ()
    further = "{dir: b, repeats: 3}"
    one, _ = train(kind, tiny_models["sd1"], "all", *own, "output.dir=one")
    two, said = train(
        kind, tiny_models["sd1"], "all/1_a", *own, f"data.sources=[{further}]", "output.dir=two"
    )
    three, _ = train(
        kind,
        tiny_models["sd1"],
        None,
        *own,
        f"data.sources=[{{dir: all/1_a}}, {further}]",
        "output.dir=three",
    )
    assert same_weights(one, two) and same_weights(one, three)
    assert "an epoch has 5 samples: 2 of all/1_a (40%), 3 of b (60%)" in said
    names = [json.loads(line)["file"] for line in (two / "pictures.jsonl").read_text().splitlines()]
    assert names == ["1_a/1.png", "1_a/2.png", "b/3.png"]


def test_class_pictures_train_as_those_of_the_class_folder(tiny_models: dict[str, Path]) -> None:
    make("cat", 1, 2, caption="my cat")
    make("reg", 7, 8, 9, caption="a cat")
    entry = "data.sources=[{dir: reg, class_pictures: true}]"
    counted = ("data.class_prompt=a cat", "data.num_class_images=3", "data.prior_weight=0.5")
    one, _ = train("lora", tiny_models["sd1"], "cat", *counted, "data.class_dir=reg", "output.dir=one")
    two, said = train("lora", tiny_models["sd1"], "cat", "data.prior_weight=0.5", entry, "output.dir=two")
    # With a prompt too they count, so that none are missing.
    three, _ = train("lora", tiny_models["sd1"], "cat", *counted, entry, "output.dir=three")
    assert same_weights(one, two) and same_weights(one, three)
    assert any(line.startswith("class: 3 pictures from reg") for line in said)
    assert not any("2 of cat" in line for line in said)
    files = [json.loads(line)["file"] for line in (two / "pictures.jsonl").read_text().splitlines()]
    assert files == ["1.png", "2.png", "class/reg/7.png", "class/reg/8.png", "class/reg/9.png"]


def test_class_pictures_of_all_kinds_are_joined(tiny_models: dict[str, Path]) -> None:
    make("cat", 1, 2)
    make("reg", 7, 8, caption="a cat")
    make("given", 9)
    counted = ("data.class_prompt=some cat", "data.num_class_images=4", "data.class_dir=given")
    folder, said = train(
        "dreambooth", tiny_models["sd1"], "cat", *counted, "data.sources=[{dir: reg, class_pictures: true}]"
    )
    assert 'Sampling 1 picture of "some cat" into given.' in said
    classes = [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()][2:]
    assert {entry["file"]: entry["caption"] for entry in classes} == {
        "class/given/9.png": "some cat",
        "class/given/class-00000.png": "some cat",
        "class/reg/7.png": "a cat",
        "class/reg/8.png": "a cat",
    }


def test_a_new_word_is_learned_from_all_folders(tiny_models: dict[str, Path]) -> None:
    make("cat", 1, 2)
    make("more", 3)
    folder, _ = train(
        "embedding", tiny_models["sd1"], "cat", "adapter.placeholder=<tom>", "data.sources=[{dir: more}]"
    )
    lines = (folder / "pictures.jsonl").read_text().splitlines()
    assert [json.loads(line)["caption"] for line in lines] == ["a photo of <tom>"] * 3
    with pytest.raises(DataError, match="No caption contains <tom>") as told:
        train(
            "embedding",
            tiny_models["sd1"],
            "cat",
            "adapter.placeholder=<tom>",
            "data.instance_prompt=cat",
            "data.sources=[{dir: more, prompt: dog}]",
            "output.dir=other",
        )
    assert told.value.where == "cat, more"


def test_a_run_resumes_to_the_bit_and_refuses_other_folders(tiny_models: dict[str, Path]) -> None:
    make("a", 1, 2, 3, caption="a cat")
    make("b", 4, 5, caption="a dog")
    shares = "data.sources=[{dir: b, share: 0.4, caption_dropout: 0.5}]"
    whole, said = train("full", tiny_models["sd1"], "a", shares, "output.dir=whole")
    assert "an epoch has 5 samples: 3 of a (60%), 2 of b (40%)" in said
    shutil.copytree(whole, "part")
    shutil.rmtree("part/checkpoints/step-000004")
    shutil.rmtree("part/model")
    train("full", tiny_models["sd1"], "a", shares, "output.dir=part", resume=True)
    assert same_weights(whole, Path("part"))
    shutil.rmtree("part/model")
    with pytest.raises(ConfigError, match=r"something has changed: data\.sources"):
        train("full", tiny_models["sd1"], "a", "data.sources=[{dir: b}]", "output.dir=part", resume=True)
    make("b", 4, caption="another")
    with pytest.raises(ConfigError, match=r"the caption of b/4\.png"):
        train("full", tiny_models["sd1"], "a", shares, "output.dir=part", resume=True)


def test_epochs_count_shares_at_every_resolution(tiny_models: dict[str, Path]) -> None:
    make("a", 1, 2, 3)
    make("b", 4, 5)
    changes = ("data.sources=[{dir: b, share: 0.3}]", "data.extra_resolutions=[64]", "training.epochs=2")
    given = [s for s in settings("full", tiny_models["sd1"], "a", *changes) if s.key != "training.steps"]
    this = assemble(build("full", given), RunFolder(Path("run")))
    assert len(this.source) == 9  # 6 of `a`, so 2.6 of `b`, in whole samples
    rows = this.trainer.rows_per_step
    assert this.recipe.training.steps == -(-18 // rows)


def test_validation_pictures_keep_their_captions(tiny_models: dict[str, Path]) -> None:
    make("a", *range(6), caption="a cat")
    make("b", *range(10, 16), caption="a dog")
    changes = ("data.sources=[{dir: b, caption_dropout: 1.0, prefix: old}]", "data.validation=0.4")
    this = assemble(
        build("full", settings("full", tiny_models["sd1"], "a", *changes)), RunFolder(Path("run"))
    )
    assert isinstance(this.source, PictureSource) and isinstance(this.validation, PictureSource)
    numbers = range(20)
    assert "" in this.source._drawn_captions(
        numbers, [this.source.items[this.source.order.item(n)][0] for n in numbers]
    )
    held = this.validation
    shown = [held.items[held.order.item(n)][0] for n in numbers]
    assert set(held._drawn_captions(numbers, shown)) == {"a cat", "old a dog"}
    assert validation_source(this.recipe, held.folder, this.adapter).digest() == held.digest()


def test_exported_files_name_folders_and_no_path(tiny_models: dict[str, Path]) -> None:
    make("deep/a", 1, caption="x")
    make("deep/b", 2, caption="x")
    entry = f"data.sources=[{{dir: {Path('deep/b').resolve()}, repeats: 2}}]"
    folder, _ = train("lora", tiny_models["sd1"], "deep/a", entry, "output.name=it")
    with safe_open(folder / "it.safetensors", framework="pt") as file:
        told = file.metadata()
    assert json.loads(told["finetune.recipe"])["data"]["sources"][0]["dir"] == "b"
    assert list(json.loads(told["ss_dataset_dirs"])) == ["a, b"]
    assert str(Path.cwd()) not in json.dumps({k: v for k, v in told.items() if "model" not in k})
    again = load_recipe(folder / "recipe.yaml")
    assert [source.repeats for source in again.data.sources] == [2]


def test_recipes_without_further_folders_are_written_as_ever() -> None:
    recipe = build("lora", [Setting("data.instance_dir", "x", "")])
    for dump in (recipe.model_dump(), recipe.model_dump(mode="json"), recipe.public()):
        assert "sources" not in dump["data"]
    assert not any(key.startswith("data.sources") for key, _ in flatten(recipe.public()))


@pytest.mark.parametrize(
    ("kind", "entries", "words"),
    [
        ("lora", "{dir: x}", "must be a list, not a section"),
        ("lora", "[3]", "entry 1 of data.sources must be a section of its own, not 3"),
        ("lora", "[{dir: x}, {repeats: 2}]", "Entry 2 of data.sources has no dir"),
        ("lora", "[{dir: x, repeats: 0}]", "repeats in entry 1 of data.sources must be at least 1, not 0"),
        ("lora", "[{dir: x, repeats: true}]", "repeats in entry 1 of data.sources must be a number"),
        ("lora", "[{dir: x, share: 1.5}]", "share in entry 1 of data.sources must be at most 1"),
        ("lora", "[{dir: x, captoin_dropout: 1}]", "Did you mean caption_dropout"),
        ("lora", "[{dir: x, num_repeats: 3}]", "Here it is called repeats"),
        ("lora", "[{dir: x, is_reg: true}]", "Here it is called class_pictures"),
        ("lora", '[{dir: "a\\0b"}]', "dir in entry 1 of data.sources must be text without control"),
        ("lora", "[{dir: x, conditioning_dir: y}]", "conditioning_dir in entry 1 of data.sources is not a s"),
        ("full", "[{dir: x, class_pictures: true}]", "class_pictures in entry 1 of data.sources is not a s"),
        ("lora", "[{dir: ./main}]", "given twice: by data.instance_dir and by entry 1"),
        ("lora", "[{dir: x}, {dir: y/../x}]", "given twice: by entry 1 of data.sources and by entry 2"),
        ("lora", "[{dir: x, repeats: 2, share: 0.5}]", "both repeats and a share"),
        ("lora", "[{dir: x, share: 0.5}, {dir: y, share: 0.5}]", "add up to 1, which leaves nothing"),
        ("lora", "[{dir: x, share: 0.5, class_pictures: true}]", "each sample brings one class picture"),
        ("controlnet", "[{dir: x, conditioning_dir: y}]", "both given by folders and made"),
    ],
)
def test_what_is_wrong_with_an_entry_is_told_with_its_number(kind: str, entries: str, words: str) -> None:
    make("x", 1)
    changes = ["data.preprocess=canny"] if kind == "controlnet" else []
    main = Setting(f"data.{RECIPES[kind].folder_field}", "main", "--main")
    given = [main, *map(parse_set, [f"data.sources={entries}", *changes])]
    with pytest.raises(ConfigError) as told:
        build(kind, given)
    assert words.lower() in str(told.value).lower()
    assert f"where: --set data.sources={entries}" in str(told.value)


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([], "No pictures are given"),
        ([{"dir": "x", "class_pictures": True}], "No pictures are given"),
        ([{"dir": "x", "share": 0.5}], "add up to 0.5, not to 1"),
        ([{"dir": "x", "share": 0.6}, {"dir": "y", "share": 0.6}], "add up to 1.2, not to 1"),
        ([{"dir": "x", "share": 0.6}, {"dir": "y", "share": 0.4}], ""),
        ([{"dir": "x", "share": 0.6}, {"dir": "y"}], ""),
        ([{"dir": "x"}, {"dir": "y", "class_pictures": True}], ""),
    ],
)
def test_folders_without_a_main_one(entries: list[dict[str, Any]], words: str) -> None:
    section = RECIPES["lora"].model_fields["data"].annotation
    assert section is not None
    faults = list(section(sources=entries).unclear("instance_dir"))
    assert [words in fault.what for fault in faults] == ([True] if words else [])


def test_the_example_of_the_docs_runs(tiny_models: dict[str, Path]) -> None:
    page = DOCS.read_text(encoding="utf-8").partition("## Several folders")[2]
    example = re.search(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert example
    data = yaml.safe_load(example[1])["data"]
    for number, place in enumerate([data["instance_dir"], *(entry["dir"] for entry in data["sources"])]):
        make(place, 10 * number, 10 * number + 1)
    Path("recipe.yaml").write_text(example[1])
    changes = [f"model.name={tiny_models['sd1']}", *SMALL, "output.dir=out"]
    said: list[str] = []
    run(load_recipe("recipe.yaml", *changes), tell=said.append)
    assert any(line.startswith("an epoch has") for line in said)
    assert any(line.startswith("class: ") for line in said)
