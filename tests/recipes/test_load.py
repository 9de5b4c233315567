"""Recipes from YAML, flags and `--set`; what is said about values that are wrong."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from finetune.errors import ConfigError
from finetune.recipes import RECIPES, LoRARecipe, Recipe, build, load_recipe
from finetune.recipes.daily import FLAGS
from finetune.recipes.faults import nearest, nearest_key
from finetune.recipes.fields import setting_fields
from finetune.recipes.load import Setting, parse_set, read_recipe_file
from finetune.recipes.other_names import OTHER_NAMES, key_here
from finetune.recipes.plain_yaml import write_yaml
from finetune.recipes.presets import warmup_note, with_preset

KEYS = list(setting_fields(LoRARecipe))


def lora(*changes: str) -> Recipe:
    pictures = Setting("data.instance_dir", "pictures/mycat", "--instance-dir pictures/mycat")
    return build("lora", [pictures, *(parse_set(change) for change in changes)])


def test_yaml_and_changes_make_a_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("kind: lora\ndata: {instance_dir: mycat}\noptimizer:\n  lr: 1e-4\n  betas: [0.8, 0.9]\n")
    recipe = load_recipe(file, "adapter.rank=4", "data.flip=true")
    assert isinstance(recipe, LoRARecipe)
    assert (recipe.optimizer.lr, recipe.optimizer.betas) == (1e-4, (0.8, 0.9))
    assert (recipe.adapter.rank, recipe.data.flip) == (4, True)
    assert recipe.data.instance_dir == Path("mycat")


def test_the_written_recipe_reads_back_equal(tmp_path: Path) -> None:
    recipe = lora("adapter.targets=[to_q, to_v]", "preview.prompts=['on', 'a: b', 'ä']", "optimizer.lr=3e-5")
    write_yaml(tmp_path / "recipe.yaml", recipe.model_dump(mode="json"), "two\nlines")
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert text.startswith("# two\n# lines\nkind: lora\n")
    again = load_recipe(tmp_path / "recipe.yaml")
    assert again == recipe
    # Everything is written out, so that no preset applies any more.
    kind, settings = read_recipe_file(tmp_path / "recipe.yaml")
    assert kind == "lora"
    assert {setting.key for setting in settings} == set(KEYS) - {"data.sources"}  # there are none


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("adapter.rank=0", "adapter.rank must be at least 1, not 0"),
        ("adapter.rank=2.5", "adapter.rank must be a whole number, not 2.5"),
        ("adapter.rank=many", "adapter.rank must be a whole number, not 'many'"),
        ("training.steps=true", "training.steps must be a number, not true"),
        ("data.resolution=true", "data.resolution must be a number, not true"),
        ("optimizer.lr=false", "optimizer.lr must be a number, not false"),
        ("optimizer.betas=[true, 0.9]", "optimizer.betas must be made of numbers, not [True, 0.9]"),
        ("adapter.block_rank={mid_block: true}", "adapter.block_rank must be made of numbers"),
        ("adapter.rank=null", "adapter.rank must be a whole number, not null"),
        ("optimizer.lr=nan", "optimizer.lr must be a finite number, not nan"),
        ("optimizer.lr=.inf", "optimizer.lr must be a finite number, not inf"),
        ("optimizer.lr=-1", "optimizer.lr must be more than 0, not -1"),
        ("optimizer.eps=nan", "optimizer.eps must be a finite number, not nan"),
        ("training.max_grad_norm=.inf", "training.max_grad_norm must be a finite number, not inf"),
        ("preview.guidance=.inf", "preview.guidance must be a finite number, not inf"),
        ("optimizer.betas=[0.9]", "optimizer.betas must be a list"),
        ("optimizer=fast", "optimizer must be a section"),
        ("training.precision=bf61", "Did you mean bf16?"),
        ("training.seed=-1", "training.seed must be at least 0"),
        ("data.resolution=65", "data.resolution must be a multiple of 8, not 65"),
        ("data.flip=maybe", "data.flip must be true or false, not 'maybe'"),
        ("adapter.targets=atention", "Did you mean attention?"),
        ("preview.prompts=a cat", "preview.prompts must be a list, not 'a cat'"),
        ("output.name=a/b", "is not a file name"),
        ("adapter.conv_alpha=4", "adapter.conv_rank"),
        ("optimizer.text_encoder_lr=1e-5", "adapter.text_encoder=true"),
        ("adapter.targets=[]", "list of layers is empty"),
        ("data.instance_dir=null", "No pictures are given"),
        ("rank", "--set section.key=value"),
        ("optimizer.lr=[", "not valid YAML"),
    ],
)
def test_a_wrong_value_is_told_with_its_place(change: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lora(change)
    assert words in str(caught.value)
    assert f"--set {change}" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("adapter.rnak", "adapter.rank"),
        ("adaptor.rank", "adapter.rank"),
        ("lr", "optimizer.lr"),
        ("training.lr", "optimizer.lr"),
        ("steps", "training.steps"),
        ("trainin.steps", "training.steps"),
        ("previw.steps", "preview.steps"),
        ("optimizer.learning_rate", None),
        ("data.instance-dir", "data.instance_dir"),
        ("zzz.qq", None),
    ],
)
def test_a_mistyped_key_names_the_nearest(wrong: str, right: str | None) -> None:
    assert nearest_key(wrong, KEYS) == right
    with pytest.raises(ConfigError, match=f"{wrong} is not a setting") as caught:
        lora(f"{wrong}=3")
    assert right is None or f"Did you mean {right}?" in str(caught.value)


def test_all_faults_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        lora("optimizer.lr=-1", "adapter.rank=x", "trainin.steps=3")
    message = str(caught.value)
    assert message.startswith("3 settings are wrong:")
    for place in ("--set optimizer.lr=-1", "--set adapter.rank=x", "--set trainin.steps=3"):
        assert f"where: {place}" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is not a recipe"),
        ("- 1", "is not a recipe"),
        ("data: {instance_dir: x}", "has no `kind`"),
        ("kind: lroa", "Write `kind: lora`"),
        ("kind: lora\nkind: lora", "the key 'kind' is given twice"),
        ("kind: lora\ndata:\n  flip: true\n  flip: false", "line 4"),
        ("kind: lora\ndata: [", "not valid YAML"),
        ("kind: lora\ndata: !!python/object/apply:os.system [ls]", "not valid YAML"),
        ("kind: lora\ndata: {instance_dir: x}\noptimzer: {lr: 1}", "Did you mean optimizer.lr?"),
        ("kind: lora\ndata: {instance_dir: x}\noptimizer: {lr: 0}", "mine.yaml, line 3: optimizer.lr"),
        ("kind: lora\ndata:\n  instance_dir: x\n  flip: 7\n", "mine.yaml, line 4: data.flip"),
        ("kind: lora\noptimizer: 3\ndata: {instance_dir: x}", "mine.yaml, line 2: optimizer"),
        ("kind: lora\n{a: b}: c", "not valid YAML"),
    ],
)
def test_a_bad_file_is_told(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(file)
    assert words in str(caught.value)
    assert str(file) in str(caught.value)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for name, words in (("none.yaml", "No such file"), ("binary.yaml", "not text"), (".", "Is a directory")):
        with pytest.raises(ConfigError, match=words):
            load_recipe(tmp_path / name)


def test_a_later_setting_wins() -> None:
    settings: list[Any] = [("data.instance_dir", "x"), ("optimizer.lr", 1e-3), ("optimizer.lr", 1e-5)]
    recipe = build("lora", [Setting(key, value, "here") for key, value in settings])
    assert recipe.optimizer.lr == 1e-5


def test_names() -> None:
    assert lora().run_name == "mycat-lora"
    assert lora("output.name=tom").run_name == "tom"
    assert lora("data.instance_dir='my cat (2)/'").run_name == "my-cat-2-lora"
    assert lora("data.instance_dir=..").run_name.endswith("-lora")


def test_what_is_published_tells_no_private_folder(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    recipe = lora(
        f"data.instance_dir={tmp_path}/mycat",
        f"data.cache_dir={tmp_path}/cache",
        f"model.name={tmp_path}/base",
        f"output.dir={tmp_path}/out",
    )
    public = recipe.public()
    assert str(tmp_path) not in str(public)
    assert (public["data"]["instance_dir"], public["model"]["name"]) == ("mycat", "base")


def test_every_setting_is_described() -> None:
    for kind in RECIPES.values():
        for key, field in setting_fields(kind).items():
            assert field.description, key
            assert field.description.endswith("."), key


# Nine times as many values in each line as in the one before.
ALIASES = "a0: &a0 [x]\n" + "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20))


@pytest.mark.parametrize(
    "text",
    [
        "kind: [lora]",
        "kind: {a: 1}",
        "kind: 2024-13-45",
        "kind: lora\ntraining: {steps: !!int abc}",
        "kind: lora\ntraining: {steps: " + "9" * 5000 + "}",
        "kind: lora\ntraining: {steps: " + "9" * 4000 + "}",
        "kind: lora\ndata: " + "[" * 5000,
        "kind: lora\ndata: !!set {a, b}",
        "kind: lora\ndata: !!binary aGFsbG8=",
        "kind: lora\ndata: !!timestamp 2024-01-01",
        "kind: lora\ndata: &a [*a]",
        'kind: lora\ndata: {instance_dir: "a\\0b"}',
        'kind: lora\ndata: {instance_dir: x, instance_prompt: "a \\ud800 cat"}',
        "kind: lora\ndata: {instance_dir: x}\noutput: {name: " + "x" * 5000 + "}",
        "kind: lora\ndata: {instance_dir: x}\npreview: {prompts: [" + "x" * 50_000 + "]}",
        "kind: lora\n" + ALIASES,
        "? [kind]\n: lora",
        "x" * 2_000_000,
    ],
    ids=lambda text: text[:40],
)
def test_odd_recipes_are_told(tmp_path: Path, text: str) -> None:
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(file)
    assert caught.value.where or "where:" in str(caught.value)
    assert len(str(caught.value)) < 1000


def test_a_long_recipe_is_not_read_to_its_end(tmp_path: Path) -> None:
    file = tmp_path / "long.yaml"
    file.write_text("kind: lora\npreview:\n  prompts:\n" + "  - a\n" * 100_000)
    with pytest.raises(ConfigError, match=r"more than 10,000 values") as caught:
        load_recipe(file)
    assert 9_990 < int(str(caught.value.where).rpartition(" ")[2]) < 10_010


@pytest.mark.parametrize(("letters", "count"), [("unknown", 4_000), ("x" * 900, 30)])
def test_many_faults_are_told_in_a_short_message(tmp_path: Path, letters: str, count: int) -> None:
    keys = ", ".join(f"{letters}_{n}: {n}" for n in range(count))
    file = tmp_path / "wrong.yaml"
    file.write_text("kind: lora\ndata: {instance_dir: x}\noptimizer: {" + keys + "}")
    with pytest.raises(ConfigError, match=f"… and {count - 20} more") as caught:
        load_recipe(file)
    assert len(str(caught.value)) < 15_000


@pytest.mark.parametrize(
    "change", ["preview.negative=[" + "x" * 5000, "x" * 5000, "optimizer.lr=" + "x" * 900]
)
def test_a_long_value_is_not_repeated_whole(change: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lora(change)
    assert len(str(caught.value)) < 500


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ConfigError, match="not a file"):
        load_recipe(tmp_path / "pipe.yaml")


def test_a_date_is_text() -> None:
    assert lora("output.name=2024-01-02").output.name == "2024-01-02"


@pytest.mark.parametrize(
    "name",
    [
        *("a\0b", "x" * 300, "é" * 101, "a\ud800", "a/b", "a\\b", "a\x1b[2J", "a\tb", "a\nb", "a\u202eb"),
        *("..", ".", "", " ", "a.", "a ", " a", "-rf", ".cat"),
        *("CON", "nul.v2", "a:b", "what?", "pytorch_lora_weights"),
    ],
)
def test_names_that_no_file_can_have_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"output\.name") as caught:
        build("lora", [*base, Setting("output.name", name, "output.name")])
    assert caught.value.where == "output.name"
    assert set("\t\x1b\u202e").isdisjoint(str(caught.value))


@pytest.mark.parametrize("name", ["mycat", "my cat (2)", "Мой кот", "cat-v1.5", "_x", "console"])
def test_names_that_files_can_have_are_taken(name: str) -> None:
    assert build("lora", [*base, Setting("output.name", name, "output.name")]).run_name == name


@pytest.mark.parametrize("kind", ["lora", "embedding"])
@pytest.mark.parametrize("word", ["<" + "x" * 100 + ">", "<" + "é" * 50 + ">", "<a\u202eb>", "<A>", "<...>"])
def test_words_that_cannot_be_written_are_refused(kind: str, word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build(kind, [*base, Setting("adapter.placeholder", word, "--placeholder")])
    assert caught.value.where == "--placeholder"
    assert "\u202e" not in str(caught.value)


base = [Setting("data.instance_dir", "pictures/mycat", "--instance-dir")]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.instance_prompt", "a \0 cat"),
        ("data.preserve", ["a cat", "a \x1b cat"]),
        ("preview.prompts", ["x" * 20_000]),
        ("adapter.placeholder", "<a\x07b>"),
        ("data.cache_dir", "a\0b"),
        ("model.name", "a\0b"),
    ],
)
def test_texts_that_cannot_be_shown_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{key} must be text"):
        build("lora", [*base, Setting(key, value, key)])


def test_only_what_is_near_is_suggested() -> None:
    for name in ("wandb", "repeats", "epochs", "xformers"):
        assert nearest(f"--{name}", [*FLAGS, "--resume", "--help"]) is None
    assert nearest("--rnak", FLAGS) == "--rank"


def test_names_of_other_trainers_are_answered() -> None:
    every = {key for kind in RECIPES.values() for key in setting_fields(kind)}
    assert set(OTHER_NAMES) <= every
    with pytest.raises(ConfigError, match=r"Here it is called adapter\.rank"):
        lora("adapter.network_dim=8")
    with pytest.raises(ConfigError, match="Use --resume"):
        lora("training.resume_from_checkpoint=latest")


@pytest.mark.parametrize("kind", RECIPES)
def test_the_folder_of_pictures_is_found_from_every_recipe(kind: str) -> None:
    keys = setting_fields(RECIPES[kind])
    folder = f"data.{RECIPES[kind].folder_field}"
    assert {key_here(name, keys) for name in ("train_data_dir", "instance_data_dir", "image_dir")} == {folder}


def test_the_warm_up_of_a_preset_is_shortened_and_the_users_is_not() -> None:
    given = build("full", [Setting("data.data_dir", "x", "x"), Setting("training.steps", 50, "--steps")])
    resolved = with_preset(given, "sd1")
    assert resolved.optimizer.warmup_steps == 5
    assert "500 steps" in (warmup_note(given, resolved, "sd1") or "")
    assert warmup_note(given, with_preset(given, "storybook"), "storybook") is None
    with pytest.raises(ConfigError, match="longer than the run"):
        lora("optimizer.warmup_steps=60", "training.steps=50")
