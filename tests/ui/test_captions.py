"""Captions are changed where they are, and not under a run that is trained on them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune.data.folder import Picture, scan_folder
from finetune.errors import UserError
from finetune.recipes.place import owned
from finetune.ui.captions import save_caption, written_caption
from finetune.ui.roots import Roots


def pictures(folder: Path) -> dict[str, Picture]:
    return {picture.name: picture for picture in scan_folder(folder).pictures}


def test_a_caption_is_what_the_next_scan_reads(roots: Roots) -> None:
    folder = roots.folders[0] / "mycat"
    name, before = next(iter(pictures(folder).items()))
    save_caption(before, "  a cat, ünder a tree \n", roots)
    after = pictures(folder)[name]
    assert after.captions == ("a cat, ünder a tree",) and after.captioned
    assert written_caption(after) == "a cat, ünder a tree"
    save_caption(after, "", roots)
    assert pictures(folder)[name] == before


def test_what_is_written_elsewhere_is_not_changed(roots: Roots) -> None:
    folder = roots.folders[0] / "mycat"
    name, picture = next(iter(pictures(folder).items()))
    with pytest.raises(UserError, match="control characters"):
        save_caption(picture, "a\x00b", roots)
    listing = json.dumps({"file_name": name, "text": "from the list"})
    (folder / "metadata.jsonl").write_text(f"{listing}\n", encoding="utf-8")
    with pytest.raises(UserError, match="own list"):
        save_caption(pictures(folder)[name], "mine", roots)


def test_a_running_run_keeps_its_captions(roots: Roots, own: Path) -> None:
    folder = roots.folders[0] / "mycat"
    recipe = (own / "recipe.yaml").read_text(encoding="utf-8")
    line = next(line for line in recipe.splitlines() if "instance_dir" in line)
    (own / "recipe.yaml").write_text(recipe.replace(line, "  instance_dir: mycat"), encoding="utf-8")
    picture = next(iter(pictures(folder).values()))
    with owned(own), pytest.raises(UserError, match="could not be resumed"):
        save_caption(picture, "another", roots)
    save_caption(picture, "another", roots)
