"""What a check found, to look at: contact sheets of what the model will see, a page with all findings."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image

from finetune.data.augment import Augmentation
from finetune.data.decode import quiet_pillow
from finetune.drawing.sheet import Shown, contact_sheets
from finetune.files import whole_file
from finetune.recipes.check import Report
from finetune.sampling.grid import grid

MOST = 256
"""Pictures that are shown; those that something was found about come first."""

_THUMBNAIL = 256  # pixels
_VIEWS = 4  # of a picture, where its samples differ

_STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; color: #222 }
.error, .warning { color: #a8330a } .note { color: #555 } .fix { color: #555; font-style: italic }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1.5em }
figure { margin: 0; overflow-wrap: anywhere }
img { width: 100%; border: 3px solid #ddd; box-sizing: border-box }
.marked img { border-color: #be4b00 }
"""


def write_pages(report: Report, folder: Path) -> list[Path]:
    """Writes `check-1.png` and so on, and `check.html`, which needs no other file.

    Args:
        report: What was found; something can be trained on.
        folder: Made if it does not exist; files of an earlier check are replaced.

    Returns:
        The files.

    Raises:
        DataError: If a picture was changed meanwhile.
    """
    folder.mkdir(parents=True, exist_ok=True)
    marks = marks_of(report)
    written: list[Path] = []
    shown = (Shown(s.image, f"{s.name}: {s.captions[0]}", s.found) for s in shots(report, marks))
    for number, sheet in enumerate(contact_sheets(shown), start=1):
        written.append(folder / f"check-{number}.png")
        with whole_file(written[-1]) as aside:
            sheet.save(aside, format="PNG")
    written.append(folder / "check.html")
    with whole_file(written[-1]) as aside:
        aside.write_text(_page(report, marks), encoding="utf-8")
    return written


def marks_of(report: Report) -> dict[str, list[str]]:
    """What was found about each picture, in a few words, by its name."""
    marks: dict[str, list[str]] = {}
    for finding in report.findings:
        for name, detail in finding.files.items():
            marks.setdefault(name, []).append(f"{finding.name} ({detail})" if detail else finding.name)
    return marks


@dataclass(frozen=True)
class Shot:
    """A picture as the model will see it, or some of its views beside each other; and what to say of it.

    Attributes:
        image: RGB.
        name: Of the picture.
        captions: At least one.
        found: What the check found about it, in a few words; may be empty.
    """

    image: Image.Image
    name: str
    captions: tuple[str, ...]
    found: str


def shots(report: Report, marks: dict[str, list[str]]) -> Iterator[Shot]:
    """The pictures to show, read one by one; those that something was found about come first.

    Args:
        report: What was found; something can be trained on.
        marks: As `marks_of` gives them.

    Raises:
        DataError: If a picture was changed meanwhile.
    """
    assert report.data is not None
    pictures, recipe = report.data.folder.pictures, report.recipe
    augmentation = Augmentation(pictures, recipe.data, recipe.training.seed)
    with quiet_pillow():
        for index in sorted(range(len(pictures)), key=lambda index: pictures[index].name not in marks)[:MOST]:
            picture, (_, place) = pictures[index], report.data.framed[index]
            views = augmentation.examples(index, place.size, _VIEWS)
            images = [Image.fromarray(v.levels(pictures).permute(1, 2, 0).numpy()) for v in views]
            image, name = images[0], picture.name
            if len(images) > 1:
                image, name = grid(images, columns=2), f"{name} ({len(images)} views)"
            yield Shot(image, name, picture.captions, ", ".join(marks.get(picture.name, [])))


def _page(report: Report, marks: dict[str, list[str]]) -> str:
    assert report.data is not None
    number = len(report.data.folder.pictures)
    findings = "".join(
        f'<li class="{finding.severity}">{finding.severity}: {escape(finding.line(MOST))}'
        f'<br><span class="fix">{escape(finding.fix)}</span></li>\n'
        for finding in report.findings
    )
    figures = "".join(map(_figure, shots(report, marks)))
    names = ", ".join(folder.name for folder in report.recipe.folders)
    title = escape(f"{names} for finetune {report.recipe.kind}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1><p>{escape(report.model)} "
        f"{number} pictures, {min(number, MOST)} shown, as the model will see them.</p>\n"
        f'<ul>{findings}</ul><div class="grid">{figures}</div></body></html>\n'
    )


def _figure(seen: Shot) -> str:
    seen.image.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    seen.image.save(packed, format="JPEG", quality=90)
    source = base64.b64encode(packed.getvalue()).decode()
    captions = "<br>".join(map(escape, seen.captions))
    return (
        f'<figure{" class=marked" if seen.found else ""}><img alt="" src="data:image/jpeg;base64,{source}">'
        f"<figcaption><b>{escape(seen.name)}</b><br>{captions}<br>"
        f'<span class="warning">{escape(seen.found)}</span>'
        "</figcaption></figure>\n"
    )
