"""Data sets by their id, from a Hub on this machine that Hugging Face's own client talks to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from finetune.recipes import load_recipe
from tests.data.conftest import painted
from tests.data.rows.made import FORMS, of_folder
from tests.hub import commit_of, hub

NAME = "someone/cats"
# What it prints besides is in the way of the lines.
SCRIPT = """
import json, sys
from finetune.config import DataSection
from finetune.data import scan_folder
from finetune.errors import DataError

for settings in json.loads(sys.argv[1]):
    try:
        found = scan_folder(None, "a pet", DataSection(**settings))
    except DataError as error:
        said = [error.what, error.fix]
    else:
        pictures = [[p.name, p.caption, p.digest, str(p.origin)] for p in found.pictures]
        said = [str(found.path), found.revision, pictures, found.notes]
    print("SAID", json.dumps(said))
"""
pytestmark = pytest.mark.slow


def ask(home: Path, endpoint: str, *settings: dict[str, Any]) -> list[list[Any]]:
    """What comes of each settings, in a process with this cache and this Hub."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    given = json.dumps([{"dataset": NAME} | one for one in settings])
    command = [sys.executable, "-W", "ignore", "-c", SCRIPT, given]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    return [json.loads(line.removeprefix("SAID ")) for line in lines if line.startswith("SAID ")]


def test_a_data_set_of_the_hub_is_as_its_folder_also_from_the_cache(mycat: Path, tmp_path: Path) -> None:
    place = FORMS["folder of Parquet"](of_folder(mycat), tmp_path / "set", mycat)
    revision = commit_of(place)
    with hub(place, NAME) as endpoint:
        online = ask(
            tmp_path / "home",
            endpoint,
            {},
            {"revision": revision, "split": "test"},
            {"revision": "gone"},
            {"split": "tset"},
            {"dataset_config": "big"},
            {"dataset": "someone/dogs"},
        )
    path, found, pictures, notes = online[0]
    assert (path, found) == (NAME, revision)
    assert [(name, caption) for name, caption, _, _ in pictures] == [
        ("0.png", "a pet"),
        ("1.png", "a red cat"),
        ("2.png", "a pet"),
        ("3.png", "a blue dog"),
        ("4.png", "a pet"),
    ]
    assert [origin for *_, origin in pictures] == [f"{NAME}: train[{i}].image" for i in range(5)]
    assert f"data set {NAME}, split train, revision {revision}" in notes
    assert [name for name, *_ in online[1][2]] == ["0.png"]
    assert "Revision 'gone' doesn't exist" in online[2][0]
    assert "no split 'tset'" in online[3][0]
    assert online[4] == [
        "Not one of the configurations of this data set is named: 'default'.",
        "Name one of them with data.dataset_config.",
    ]
    assert "'someone/dogs' doesn't exist on the Hub or cannot be accessed" in online[5][0]

    # Nobody listens there.
    offline = ask(
        tmp_path / "home",
        "http://127.0.0.1:9",
        {},
        {"revision": revision},
        {"revision": "gone"},
        {"dataset": "a/b"},
    )
    assert offline[0][:3] == offline[1][:3] == online[0][:3]
    assert any("from the cache, since the Hub does not answer for it" in note for note in offline[0][3])
    assert f"in the cache is revision {revision}" in offline[2][0]
    assert offline[3][0] == "The Hub cannot be reached, and the data set is not in the local cache."


def test_pictures_and_configurations_of_a_hub_data_set(tmp_path: Path) -> None:
    """Files beside a metadata.jsonl, in two configurations that the card of the data set names."""
    place = tmp_path / "set"
    for config in ("cats", "dogs"):
        (place / config).mkdir(parents=True)
        for number in range(2):
            painted(40, 32, number + len(config)).save(place / config / f"{number}.png")
        lines = [{"file_name": f"{n}.png", "text": f"{config} {n}"} for n in range(2)]
        (place / config / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    configs = "\n".join(f"- config_name: {c}\n  data_dir: {c}" for c in ("cats", "dogs"))
    (place / "README.md").write_text(f"---\nconfigs:\n{configs}\n---\n")
    with hub(place, NAME) as endpoint:
        unnamed, dogs = ask(tmp_path / "home", endpoint, {}, {"dataset_config": "dogs"})
    assert unnamed[0] == "Not one of the configurations of this data set is named: 'cats', 'dogs'."
    assert [(name, caption) for name, caption, *_ in dogs[2]] == [("0.png", "dogs 0"), ("1.png", "dogs 1")]
    with Image.open(dogs[2][0][3]) as picture:
        assert picture.size == (40, 32)


def test_a_run_says_which_revision_and_is_repeated_without_the_hub(
    mycat: Path, tmp_path: Path, tiny_models: dict[str, Path]
) -> None:
    place = FORMS["folder of Parquet"](of_folder(mycat), tmp_path / "set", mycat)
    small = ["--model", str(tiny_models["sd1"]), "--steps", "1", "--rank", "2", "--set", "preview.every=0"]
    with hub(place, NAME) as endpoint:
        said = finetune(tmp_path, endpoint, "lora", "--set", f"data.dataset={NAME}", *small)
    assert f"Data set {NAME}: what is not in the cache of `datasets` is downloaded." in said
    assert f"5 pictures from {NAME}" in said
    assert '3 pictures without a caption: the data set\'s name is the trigger word, "a photo of cats"' in said
    folder = tmp_path / "runs" / "cats-lora"
    recipe = folder / "recipe.yaml"
    assert load_recipe(recipe).data.revision == commit_of(place)
    finetune(tmp_path, "http://127.0.0.1:9", "run", str(recipe), "--set", "output.dir=again")
    file = "pytorch_lora_weights.safetensors"
    assert (folder / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def finetune(place: Path, endpoint: str, *arguments: str) -> str:
    """What a command says that works; nothing of it is an error or a warning."""
    paths = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "HF_HOME": str(place / "home"), "HF_ENDPOINT": endpoint, "PYTHONPATH": paths}
    command = [sys.executable, "-m", "finetune", *arguments]
    done = subprocess.run(command, env=environment, cwd=place, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("step 1/1") and len(done.stderr.splitlines()) == 1
    return done.stdout
