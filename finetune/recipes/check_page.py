"""What a check found, to look at: contact sheets of what the model will see, a page with all findings."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from html import escape
from pathlib import Path

from PIL import Image

from finetune.data.decode import quiet_pillow
from finetune.data.folder import Picture
from finetune.data.preprocess import cropped
from finetune.drawing.sheet import Shown, contact_sheets
from finetune.files import whole_file
from finetune.recipes.check import Report

MOST = 256
"""Pictures that are shown; those that something was found about come first."""

_THUMBNAIL = 256  # pixels

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
    for number, sheet in enumerate(contact_sheets(_shown(report, marks)), start=1):
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


def _chosen(report: Report, marks: dict[str, list[str]]) -> list[Picture]:
    assert report.data is not None
    return sorted(report.data.folder.pictures, key=lambda picture: picture.name not in marks)[:MOST]


def _shown(report: Report, marks: dict[str, list[str]]) -> Iterator[Shown]:
    with quiet_pillow():
        for picture in _chosen(report, marks):
            warning = ", ".join(marks.get(picture.name, []))
            yield Shown(_seen(picture, report), f"{picture.name}: {picture.caption}", warning)


def _seen(picture: Picture, report: Report) -> Image.Image:
    """What the model will see of a picture."""
    assert report.data is not None
    with picture.opened() as image:
        pixels = cropped(image, next(at for other, at in report.data.framed if other is picture))
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def _page(report: Report, marks: dict[str, list[str]]) -> str:
    assert report.data is not None
    number = len(report.data.folder.pictures)
    findings = "".join(
        f'<li class="{finding.severity}">{finding.severity}: {escape(finding.line(MOST))}'
        f'<br><span class="fix">{escape(finding.fix)}</span></li>\n'
        for finding in report.findings
    )
    with quiet_pillow():
        figures = "".join(_figure(picture, report, marks) for picture in _chosen(report, marks))
    title = escape(f"{report.folder.name} for finetune {report.recipe.kind}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{title}</h1><p>{escape(report.model)} "
        f"{number} pictures, {min(number, MOST)} shown, as the model will see them.</p>\n"
        f'<ul>{findings}</ul><div class="grid">{figures}</div></body></html>\n'
    )


def _figure(picture: Picture, report: Report, marks: dict[str, list[str]]) -> str:
    seen = _seen(picture, report)
    seen.thumbnail((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    seen.save(packed, format="JPEG", quality=90)
    source = base64.b64encode(packed.getvalue()).decode()
    found = escape(", ".join(marks.get(picture.name, [])))
    captions = "<br>".join(map(escape, picture.captions))
    return (
        f'<figure{" class=marked" if found else ""}><img alt="" src="data:image/jpeg;base64,{source}">'
        f'<figcaption><b>{escape(picture.name)}</b><br>{captions}<br><span class="warning">{found}</span>'
        "</figcaption></figure>\n"
    )
