"""A folder of broken files of every kind under odd names, with a few intact pictures among them."""

from __future__ import annotations

import io
import os
import random
import shutil
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tests.campaigns.pictures import SPOIL, encoded, picture, stderr_text

Make = Callable[[Path, random.Random], object]
STEMS = (
    *("plain", "猫", "🐈\u200d⬛", "e\u0301", "ключ", "قطة", "line\nbreak", "a\rb", "\t", "\x1b[31mred"),
    *("\x7f", "\x85", "\u2028", "\u202egnp", "\u200fmark", "\u2066", "\\n", "\\u202e", "\\", "\x07"),
    *("[bold]x[link=y]", "-rf", " space ", "'\"`$(id)", "<b>&amp;", "a, b and 3 more", "c.d", "%s{0}"),
    *("x" * 240, "🐈" * 55, *map(os.fsdecode, (b"\xff\xfe", b"caf\xe9", b"\xed\xa0\x80", b"\xff" * 200))),
)
PICTURES = (".png", ".PNG", ".jpg", ".JPeG", ".webp", ".bmp", ".tif", ".gif", ".jp2", ".avif", ".jfif")
OTHERS = ("", ".part", ".crdownload", ".pngx", ".mp4", ".zip", ".bak", ".JPG~")
CLOSED = "closed\n"
UNSUPPORTED = (".psd", ".CR2", ".svg")


@dataclass
class Litter:
    """What was made.

    Attributes:
        root: The folder.
        intact: The pictures that can be trained on.
        broken: What cannot.
        either: Pictures with some damage, which may not matter.
        out_of_reach: Folders that cannot be read.
    """

    root: Path
    intact: set[Path] = field(default_factory=set)
    broken: set[Path] = field(default_factory=set)
    either: set[Path] = field(default_factory=set)
    out_of_reach: set[Path] = field(default_factory=set)

    def remove(self) -> None:
        """Removes all of it, unreadable folders too."""
        (self.root / CLOSED).chmod(0o700)
        shutil.rmtree(self.root)


def make_litter(root: Path, draw: random.Random, number: int) -> Litter:
    """Makes about `number` broken files, and a few intact ones."""
    root.mkdir()
    made, used = Litter(root), set[Path]()
    folders = [root]
    while len(folders) < 2 + number // 40:
        folder = draw.choice(folders[-6:]) / f"{draw.choice(STEMS)[:40]}{len(folders)}"
        if len(os.fsencode(folder)) < 1500:
            folder.mkdir()
            folders.append(folder)

    def place(suffix: str) -> Path:
        path = draw.choice(folders) / f"{draw.choice(STEMS)}{len(used)}{suffix}"
        used.add(path)
        return path

    whole = [png(draw) for _ in range(3)]
    for index in range(9):
        path = place(draw.choice(PICTURES))  # also under a wrong suffix: the content decides
        path.write_bytes(whole[index % len(whole)])
        made.intact.add(path)
    for index, path in enumerate(sorted(made.intact)[:4]):
        path.with_suffix(".txt").write_text(f"a cat {index}")
    pool = [encoded_quietly(draw) for _ in range(40)]
    for _ in range(number):
        if draw.random() < 0.25:
            made.either.add(path := place(draw.choice(PICTURES)))
            path.write_bytes(draw.choice(SPOIL[1:])(draw.choice(pool), draw))
        else:
            suffixes, make = draw.choice(KINDS)
            path = place(draw.choice(suffixes))
            make(path, draw)
            made.broken.add(path)
    _twins(made, whole[0])
    _heavy(made)
    _odd_captions(made, whole[0])
    _out_of_reach(made, whole[0])
    (root / "again").symlink_to(root, target_is_directory=True)  # not a file, and not to be followed for ever
    return made


def _twins(made: Litter, whole: bytes) -> None:
    """Names that differ only in whether a character or its escape is in them."""
    for stem in ("twin\n", "twin\\n", "twin\\\\n", os.fsdecode(b"twin\xff"), "twin\\xff", "twin\\udcff"):
        for suffix, data in ((".png", whole), (".jpg", b"")):
            path = made.root / f"{stem}{suffix}"
            path.write_bytes(data)
            (made.intact if data else made.broken).add(path)


def _heavy(made: Litter) -> None:
    """What would fill the memory: a large file that is no picture, a small one that claims much."""
    for name, size in (("video.jpg", 3 * 2**29), ("more.png", 2**30)):
        made.broken.add(made.root / name)
        _sparse(size)(made.root / name, random.Random())
    for name in ("claims.png", "claims 2.png"):
        made.broken.add(made.root / name)
        (made.root / name).write_bytes(claiming(13_000, 13_000))


def _odd_captions(made: Litter, whole: bytes) -> None:
    """Caption files that cannot be used, beside pictures that could be."""
    texts: dict[str, Callable[[Path], object]] = {
        "utf16": lambda path: path.write_text("a cat", encoding="utf-16"),
        "latin": lambda path: path.write_bytes(b"caf\xe9"),
        "long": lambda path: path.write_text("cat " * 20_000),
        "sparse": lambda path: _sparse(2**31)(path, random.Random()),
    }
    for stem, write in texts.items():
        made.broken.add(picture := made.root / f"{stem}.png")
        picture.write_bytes(whole)
        write(picture.with_suffix(".txt"))
    # What is no file is no caption either: the picture is trained on, and the other named.
    for stem, make in {"pipe": os.mkfifo, "circle": lambda path: path.symlink_to(path.name)}.items():
        made.intact.add(picture := made.root / f"{stem}.png")
        picture.write_bytes(whole)
        made.broken.add(text := picture.with_suffix(".txt"))
        make(text)
    (made.root / "folder.txt").mkdir()
    made.intact.add(picture := made.root / "folder.png")
    picture.write_bytes(whole)


def _out_of_reach(made: Litter, whole: bytes) -> None:
    """A folder that must not be read, and ones whose path is too long for the system."""
    closed = made.root / CLOSED
    closed.mkdir()
    (closed / "1.png").write_bytes(whole)
    closed.chmod(0)
    made.out_of_reach.add(closed)
    # The last folder in reach is so only just: a picture is, `metadata.jsonl` would not be.
    longest = os.pathconf("/", "PC_PATH_MAX") - len("//1.png")
    folder, here = made.root, os.open(made.root, os.O_RDONLY)
    while (left := longest - len(os.fsencode(folder)) - 1) >= 0:
        folder, here = _entered(folder, here, "d" * (left if left <= 200 else 100))
    made.intact.add(folder / "1.png")
    _write_in(here, whole)
    folder, here = _entered(folder, here, "beyond")
    _write_in(here, whole)
    os.close(here)
    made.out_of_reach.add(folder)


def _entered(folder: Path, here: int, name: str) -> tuple[Path, int]:
    """A new folder in an open one, open itself; works however long its path is."""
    os.mkdir(name, dir_fd=here)
    inside = os.open(name, os.O_RDONLY, dir_fd=here)
    os.close(here)
    return folder / name, inside


def _write_in(here: int, data: bytes) -> None:
    with os.fdopen(os.open("1.png", os.O_WRONLY | os.O_CREAT, dir_fd=here), "wb") as file:
        file.write(data)


def png(draw: random.Random) -> bytes:
    """An intact picture."""
    file = io.BytesIO()
    picture(draw, "RGB").save(file, "PNG")
    return file.getvalue()


def encoded_quietly(draw: random.Random) -> bytes:
    """A valid file of a random kind."""
    with stderr_text():
        return encoded(draw)[1]


def chunked(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG of these chunks."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


def claiming(width: int, height: int, bits: int = 8) -> bytes:
    """A PNG whose header claims so many pixels, and which has few."""
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return chunked((b"IHDR", header), (b"IDAT", zlib.compress(bytes(2000))), (b"IEND", b""))


def _content(data: bytes) -> Make:
    return lambda path, draw: path.write_bytes(data)


def _half(path: Path, draw: random.Random) -> None:
    file = io.BytesIO()
    picture(draw, "RGB").resize((64, 64)).save(file, draw.choice(("PNG", "JPEG", "WEBP")))
    path.write_bytes(file.getvalue()[: int(len(file.getvalue()) * draw.uniform(0.1, 0.7))])


def _link(target: str) -> Make:
    return lambda path, draw: path.symlink_to(target)


def _circle(path: Path, draw: random.Random) -> None:
    path.symlink_to(path.name)


def _sparse(size: int) -> Make:
    def make(path: Path, draw: random.Random) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def _intact(path: Path, draw: random.Random) -> None:
    path.write_bytes(png(draw))


def _noise(path: Path, draw: random.Random) -> None:
    path.write_bytes(draw.randbytes(draw.randrange(1, 3000)))


def _socket(path: Path, draw: random.Random) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def _secret(path: Path, draw: random.Random) -> None:
    path.write_bytes(png(draw))
    path.chmod(0)


def _bmp(width: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (24, 16)).save(file, "BMP")
    data = bytearray(file.getvalue())
    data[18:22] = struct.pack("<i", width)
    return bytes(data)


_BYTES = (
    *(b"", b"\0", bytes(5000), b"<html>404 not found</html>", b"%PDF-1.7\n1 0 obj", b"PK\x03\x04aaa"),
    *(b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"GIF89a" + b"\xff" * 500, b"II*\0", b"BM"),
    *(b"RIFF\xff\xff\xff\x7fWEBPVP8 ", b"\0\0\0 ftypavif", b"\0\0\0 ftypheic" + bytes(50), b"\xff\xfea\0b\0"),
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    *(claiming(100_000, 100_000), claiming(30_000, 30_000), claiming(2**31 - 1, 1), claiming(90, 90)),
    # One of its chunks claims 2 GB.
    chunked((b"IHDR", struct.pack(">IIBBBBB", 24, 16, 8, 2, 0, 0, 0))) + b"\x7f\xff\xff\xffIDATabc",
    *(_bmp(60_000), _bmp(-(2**31))),
)
KINDS: tuple[tuple[tuple[str, ...], Make], ...] = (
    *((PICTURES, _content(data)) for data in _BYTES),
    *((PICTURES, make) for make in (*[_half] * 6, *[_noise] * 3, _secret, _circle, _sparse(3 * 2**30))),
    *((PICTURES, make) for make in (lambda path, draw: os.mkfifo(path), _socket)),
    *((PICTURES, _link(target)) for target in ("gone.png", "/dev/zero", "/dev/null", "/dev/tty")),
    (OTHERS, _intact),
    (OTHERS, _content(b"")),
    (UNSUPPORTED, _intact),
    ((".txt", ".caption", ".CAPTION"), _content(b"a text without a picture")),
)
