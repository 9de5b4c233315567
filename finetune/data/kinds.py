"""The kinds of picture files: one table. A file's content decides which kind it is, not its name."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata

import PIL
from PIL import Image


@dataclass(frozen=True)
class Kind:
    """One kind of picture file.

    Attributes:
        name: As people call it.
        suffixes: File-name endings, in lower case.
        reader: Pillow's name for it.
        package: What has to be installed for Pillow to read it; empty if Pillow always does.
        module: What to import from the package, if it is a plugin.
        register: The module's function that adds it to Pillow; empty if importing does.
        start: How its files start, as a regular expression, if it may be missing.
    """

    name: str
    suffixes: tuple[str, ...]
    reader: str
    package: str = ""
    module: str = ""
    register: str = ""
    start: bytes = b""

    def available(self) -> bool:
        """Whether Pillow can read it; imports its plugin if there is one."""
        if self.reader not in Image.OPEN and self.module:
            try:
                plugin = import_module(self.module)
            except ImportError:
                return False
            if self.register:
                getattr(plugin, self.register)()
        return self.reader in Image.OPEN


# No reader but these is ever tried: a file with a picture's name cannot reach Pillow's others (that of EPS
# runs a program).
KINDS = (
    Kind("PNG", (".png",), "PNG"),
    Kind("JPEG", (".jpg", ".jpeg", ".jfif", ".jpe"), "JPEG"),
    Kind("WebP", (".webp",), "WEBP"),
    Kind("AVIF", (".avif",), "AVIF", "pillow>=11.3", start=rb"....ftypavi[fs]"),
    Kind("JPEG 2000", (".jp2", ".j2k", ".jpx"), "JPEG2000"),
    Kind("BMP", (".bmp",), "BMP"),
    Kind("TIFF", (".tif", ".tiff"), "TIFF"),
    Kind("GIF", (".gif",), "GIF"),
    Kind(
        *("HEIC", (".heic", ".heif", ".hif"), "HEIF", "pillow-heif", "pillow_heif", "register_heif_opener"),
        start=rb"....ftyp(hei[cmsx]|hev[cmsx]|mif1|msf1)",
    ),
    Kind(
        *("JPEG XL", (".jxl",), "JXL", "pillow-jxl-plugin", "pillow_jxl"),
        start=rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n",
    ),
)


def readers() -> tuple[str, ...]:
    """Pillow's names of the kinds that it can read as it is."""
    Image.init()
    return tuple(kind.reader for kind in KINDS if kind.reader in Image.OPEN)


def readable() -> str:
    """Their names, for messages: "PNG, JPEG or TIFF"."""
    *names, last = (kind.name for kind in KINDS if kind.reader in readers())
    return f"{', '.join(names)} or {last}"


def recognized(data: bytes) -> Kind | None:
    """The kind of a file that Pillow may need more for, by how its bytes start; None for the others."""
    return next((k for k in KINDS if k.start and re.match(k.start, data[:16], re.DOTALL)), None)


def version_for(data: bytes) -> str:
    """What reads these bytes, with versions: with another, it may find something else in them."""
    kind = recognized(data)
    return f"Pillow {PIL.__version__}" + (f" {_version(kind.package)}" if kind and kind.module else "")


@cache
def _version(package: str) -> str:
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return f"without {package}"
