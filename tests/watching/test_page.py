"""The report: one file that needs no other, with what the run's own files say."""

from __future__ import annotations

import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from finetune.cli import main
from finetune.watching.asked import asked, differing, usual_values
from finetune.watching.page import duration, write_report
from finetune.watching.pictures import previews, spread, trained_on
from finetune.watching.seen import look
from finetune.watching.usage import about, results, snippet

VOID = {"meta", "link", "img", "br", "line"}


class Page(HTMLParser):
    """Checks that tags are closed in order; collects what a browser would load, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in {"script", "link", "iframe", "object"}
        self.loads += [value or "" for name, value in attrs if name in {"src", "href", "srcset", "poster"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_no_other_file_and_names_no_home(own: Path) -> None:
    text = write_report([own]).read_text(encoding="utf-8")
    page = Page(text)
    assert (own / "report.html").is_file()
    assert page.loads and all(source.startswith("data:image/jpeg;base64,") for source in page.loads)
    assert "@import" not in text and "url(" not in text
    assert str(own.parent) not in text and str(own.parents[2]) not in text
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text and "@media print" in text


def test_the_page_says_what_the_run_was(own: Path) -> None:
    text = " ".join(Page(write_report([own]).read_text(encoding="utf-8")).text.split())
    for words in (
        "LoRA on ",
        "4 of 4",
        "adapter.rank",
        "3 trained on, all with the same caption",
        "broken.png",  # what was said of the data
        "Learning rate",
        "pictures/s",
        'a <cat> & a "hat"',  # escaped in the source
        "step 2",
        "step 4",
        "mine.safetensors",
        "models/Lora/",
        "finetune sample",
        "load_lora_weights",
        "torch",
        about(look(own))["finetune.data_digest"],
    ):
        assert words in text, words


def test_the_settings_shown_are_those_that_were_given(finished: Path) -> None:
    run = look(finished)
    found = {one.key: one.value for one in asked(run, "sd1")}
    given = {"adapter.rank": "2", "training.steps": "4", "training.log_every": "1", "preview.every": "2",
             "training.batch_size": "2", "training.checkpoint_every": "2", "preview.steps": "2",
             "data.instance_dir": "mycat"}  # fmt: skip
    assert found.items() >= given.items()
    # What else is shown is what `auto` and empty settings became.
    unset = {None, "auto"}
    assert {usual_values("lora", "sd1")[key] for key in found if key not in given} <= unset


def test_a_strip_is_the_pictures_of_its_prompt(finished: Path) -> None:
    strips = previews(look(finished).folder)
    assert [(s.prompt, s.seed) for s in strips] == [('a <cat> & a "hat"', 0), ("mycat", 1)]
    for number, strip in enumerate(strips):
        assert [figure.caption for figure in strip.figures] == ["step 2", "step 4"]
        packed = base64.b64decode(strip.figures[-1].source.partition(",")[2])
        shown = np.asarray(Image.open(io.BytesIO(packed)), np.float32)
        # Two pictures of 192 pixels side by side, 8 apart (`grid`), without labels' place below.
        with Image.open(finished / "samples" / "step-000004.png") as sheet:
            left = 8 + number * (192 + 8)
            part = np.asarray(sheet.convert("RGB").crop((left, 8, left + 192, 200)), np.float32)
        assert shown.shape == part.shape
        assert np.abs(shown - part).mean() < 6  # JPEG's


def test_previews_without_places_are_shown_whole(own: Path) -> None:
    for path in (own / "samples").iterdir():
        Image.open(path).convert("RGB").save(path)  # without what it says
    (strip,) = previews(look(own).folder)
    assert strip.prompt == "" and len(strip.figures) == 2
    (own / "samples" / "step-000002.png").write_bytes(b"no picture")
    assert len(previews(look(own).folder)[0].figures) == 1


def test_pictures_that_are_gone_or_changed_are_not_shown(own: Path, finished: Path, tmp_path: Path) -> None:
    pictures = shutil.copytree(finished.parent / "mycat", tmp_path / "mycat")
    recipe = yaml.safe_load((own / "recipe.yaml").read_text())
    recipe["data"]["instance_dir"] = str(pictures)
    (own / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert (len(trained_on(look(own)).figures), trained_on(look(own)).gone) == (3, 0)
    Image.new("RGB", (36, 40)).save(pictures / "0.png")
    (pictures / "1.png").unlink()
    found = trained_on(look(own))
    assert (len(found.figures), found.count, found.gone) == (1, 3, 2)


def test_steps_are_spread_evenly_with_both_ends() -> None:
    paths = [Path(str(n)) for n in range(41)]
    assert spread(paths, 9) == paths[::5]
    assert spread(paths[:4], 9) == paths[:4]


def test_an_interrupted_run_has_a_page_too(own: Path) -> None:
    (own / "pytorch_lora_weights.safetensors").unlink()
    (own / "failure.txt").write_text(f"The disk is full.\n  where: {own}/x\n")
    for name in ("metrics.jsonl", "summary.txt", "pictures.jsonl"):
        (own / name).unlink()
    shutil.rmtree(own / "samples")
    text = Page(write_report([own]).read_text(encoding="utf-8")).text
    assert "Failed" in text and "The disk is full." in text and "--resume" in text and "Curves" not in text


def test_several_runs_on_one_page(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own.parents[1])
    other = shutil.copytree(own, Path("runs/other"))
    recipe = yaml.safe_load((other / "recipe.yaml").read_text())
    recipe["optimizer"]["lr"], recipe["adapter"]["rank"] = 0.5, 7
    (other / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert [(key, values[1]) for key, values in differing([look(own), look(other)])] == [
        ("adapter.rank", "7"),
        ("optimizer.lr", "0.5"),
    ]
    assert main(["report", "runs/mine", "runs/other"]) == 2  # where to?
    assert main(["report", "runs/mine", "runs/other", "-o", "both.html"]) == 0
    text = Path("both.html").read_text(encoding="utf-8")
    page = Page(text)
    assert "2 runs" in page.text and "optimizer.lr" in page.text and "adapter.alpha" not in page.text
    assert len(re.findall(r"<path", text)) == 8  # four charts of two runs
    assert len(page.loads) == 4  # two prompts of two runs
    assert main(["report", "runs/mine"]) == 0 and Path("runs/mine/report.html").is_file()
    assert main(["report", "runs"]) == 2


def test_results_say_where_they_go(own: Path) -> None:
    run = look(own)
    made = {one.name: one for one in results(run)}
    assert list(made) == ["mine.safetensors", "pytorch_lora_weights.safetensors"]
    assert made["mine.safetensors"].size == (own / "mine.safetensors").stat().st_size
    code = snippet(run, "runs/mine", "it's a cat")
    assert code is not None
    compile(code, "snippet", "exec")


@pytest.mark.parametrize(("spent", "words"), [(12.4, "12 s"), (167, "2:47 min"), (3930, "1:05:30 h")])
def test_times_are_for_people(spent: float, words: str) -> None:
    assert duration(spent) == words
