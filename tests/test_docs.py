"""The pages under docs/ match the package."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest

from finetune.recipes.fields import setting_fields
from finetune.recipes.load import RECIPES, EvaluatedSettings, Sampled
from storybook.pictures import NEAR_MISS_SHARE, TEXTURE_SHARE
from storybook.world import ANIMALS, BELL_SHARE, COLOURS, HAT_SHARE, HELD_OUT, PATTERN_SHARE, SCENES

ROOT = Path(__file__).resolve().parent.parent
STORYBOOK = ROOT / "finetune" / "models" / "storybook"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FILE = re.compile(r"`([\w-]+(?:/[\w.-]+)*\.py)`")
SECTIONS = "model|sampling|evaluation|evaluate|data|adapter|objective|optimizer|training|preview|output"
SETTING = re.compile(rf"`(?:--set )?((?:{SECTIONS})\.(?!jsonl)\w+)(?:=[^`]*)?`")
# Where file names on pages are looked up; pages name a module relative to the package.
HOMES = (ROOT, ROOT / "docs", ROOT / "finetune", ROOT / "tests", ROOT / "storybook")


@pytest.fixture(scope="module")
def update() -> dict[str, Any]:
    """The script that copies settings and code into the pages."""
    return runpy.run_path(str(ROOT / "docs" / "update.py"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_quoted_settings_and_code_are_the_real_ones(page: Path, update: dict[str, Any]) -> None:
    text = page.read_text(encoding="utf-8")
    assert update["updated"](text) == text, "run `python docs/update.py`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link in LINK.findall(text):
        if "://" in link:
            continue
        path, _, heading = link.partition("#")
        target = page.parent / path if path else page
        if path.startswith("docs/images/") and not STORYBOOK.is_dir():
            continue  # made with the bundled model
        assert target.exists(), link
        if heading:
            found = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", f.lower()).replace(" ", "-") for f in found}, link
    for file in FILE.findall(text):
        assert any((home / file).exists() for home in HOMES), file


def test_settings_that_pages_name_exist() -> None:
    known = {key for kind in (Sampled, EvaluatedSettings, *RECIPES.values()) for key in setting_fields(kind)}
    for page in PAGES:
        for setting in SETTING.findall(page.read_text(encoding="utf-8")):
            assert setting in known, f"{page.name}: {setting}"


def test_the_storybook_page_has_the_numbers_of_the_code() -> None:
    page = " ".join((ROOT / "docs" / "storybook.md").read_text(encoding="utf-8").split())
    scenes = len(ANIMALS) * len(COLOURS) * len(SCENES)
    shares = (NEAR_MISS_SHARE, TEXTURE_SHARE, HAT_SHARE, PATTERN_SHARE, BELL_SHARE)
    near, texture, hat, pattern, bell = (f"{share:.0%}".replace("%", " %") for share in shares)
    for words in (
        f"resemble the subject without being it ({near})",
        f"natural pictures ({texture};",
        f"a hat of another color ({hat})",
        f"stripes or spots of another color ({pattern})",
        f"a golden bell ({bell})",
        f"the {scenes} combinations of animal, color and scene, {len(HELD_OUT)} are never shown",
        *(f"| {', '.join(words)} |" for words in (ANIMALS, COLOURS, SCENES)),
    ):
        assert words in page
