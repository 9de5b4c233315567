"""Text in pictures: a font that has its letters, and lines of a given width."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow's own font has little but ASCII; these come with Linux, macOS and Windows and have more.
_OTHERS = (
    "DejaVuSans.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "segoeui.ttf",
    "msyh.ttc",
)
_NO_LETTER = "\U0010ffff"


def font_for(texts: Iterable[str], size: int) -> Font:
    """A font for these texts: Pillow's own if it has their letters, else one that has more of them.

    Args:
        texts: What is to be drawn; letters that no font has become boxes.
        size: In pixels.
    """
    letters = {letter for text in texts for letter in text if not letter.isspace()}
    fonts = [font for name in (None, *_OTHERS) if (font := _load(name, size))]
    best = fonts[0]
    missing = _missing(best, letters)
    for font in fonts[1:] if missing else ():
        if len(lacking := _missing(font, letters)) < len(missing):
            best, missing = font, lacking
    return best


@lru_cache
def _load(name: str | None, size: int) -> Font | None:
    try:
        return ImageFont.load_default(size) if name is None else ImageFont.truetype(name, size)
    except OSError:
        return None


def _missing(font: Font, letters: Iterable[str]) -> set[str]:
    """The letters that the font draws as it draws one that no font has."""
    if not isinstance(font, ImageFont.FreeTypeFont):
        return {letter for letter in letters if ord(letter) > 255}  # Pillow's bitmap font is Latin-1
    box = _drawn(font, _NO_LETTER)
    return {letter for letter in letters if _drawn(font, letter) == box}


def _drawn(font: ImageFont.FreeTypeFont, letter: str) -> tuple[tuple[int, int], bytes]:
    mask = font.getmask(letter)
    return mask.size, bytes(mask)


def line_height(font: Font) -> int:
    """Pixels from one line to the next."""
    return sum(font.getmetrics()) if isinstance(font, ImageFont.FreeTypeFont) else 14


def wrapped(text: str, font: Font, width: int, most: int) -> list[str]:
    """Lines no wider than `width` pixels, broken at spaces, and inside of a word that is longer than a line.

    Args:
        text: In any language.
        font: What it is drawn with.
        width: Pixels.
        most: Lines at most; more are truncated with "…".
    """
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
            continue
        pieces = _pieces(word, font, width)
        lines += pieces
        if len(lines) > most:
            break
    if len(lines) <= most:
        return lines
    return [*lines[: most - 1], _cut(lines[most - 1], font, width)]


def _pieces(word: str, font: Font, width: int) -> list[str]:
    """A word in pieces that fit; one letter at least in each."""
    pieces = [""]
    for letter in word:
        if pieces[-1] and font.getlength(pieces[-1] + letter) > width:
            pieces.append("")
        pieces[-1] += letter
    return pieces


def _cut(line: str, font: Font, width: int) -> str:
    """The line with "…" at its end, and as many of its words as fit, or else letters."""
    while line and font.getlength(f"{line} …") > width:
        line = line.rpartition(" ")[0] or line[:-1]
    return f"{line} …".strip()
