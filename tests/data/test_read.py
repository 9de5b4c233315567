"""Files that are no pictures, or not even files; what is known of bytes; memory."""

from __future__ import annotations

import errno
import hashlib
import multiprocessing
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from PIL import Image

from finetune.config import DataSection
from finetune.data import read
from finetune.data.decode import PictureError, decode_picture, quiet_pillow
from finetune.data.facts import FactsIndex
from finetune.data.folder import Picture, scan_folder
from finetune.data.preprocess import cropped, place
from finetune.data.read import Reader
from finetune.errors import ConfigError
from finetune.kernels import keep_freed_memory
from tests.data.conftest import painted


@contextmanager
def decoder_counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What is really decoded inside."""
    seen: list[bytes] = []

    def counting(data: bytes) -> object:
        seen.append(data)
        return decode_picture(data)

    with monkeypatch.context() as patch:
        patch.setattr(read, "decode_picture", counting)
        yield seen


def test_what_is_no_file_is_named_and_never_opened(mycat: Path) -> None:
    os.mkfifo(mycat / "a pipe.png")
    (mycat / "loop.png").symlink_to(mycat / "loop.png")
    (mycat / "nothing.png").symlink_to(mycat / "gone.png")
    (mycat / "noise.jpg").symlink_to("/dev/urandom")
    (mycat / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(mycat / "s.png"))
        folder = scan_folder(mycat, "x")
    assert len(folder.pictures) == 5
    assert {s.path.name: s.reason for s in folder.skipped} == {
        "a pipe.png": "it is a pipe, not a file",
        "loop.png": "the file cannot be read (it is a link that leads back to itself)",
        "nothing.png": "the file cannot be read (it is not there, or a link to nothing)",
        "noise.jpg": "it is a device, not a file",
        "s.png": "it is a socket, not a file",
    }


def test_a_file_that_vanishes_or_is_forbidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    painted(8, 8).save(tmp_path / "a.png")
    for number, reason in (
        (errno.ENOENT, "not there"),
        (errno.EACCES, "not permitted"),
        (errno.EIO, "error"),
    ):

        def fails(path: Path, number: int = number) -> bytes:
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", fails)
            with pytest.raises(PictureError, match=f"(?i)cannot be read .*{reason}"):
                Reader().read(tmp_path / "a.png")


def test_of_a_large_file_that_is_no_picture_only_the_start_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    film, bomb, whole = (tmp_path / name for name in ("film.jpg", "bomb.bmp", "whole.bmp"))
    film.write_bytes(b"\0\0\0 ftypisom" + bytes(40_000_000))
    Image.new("RGB", (4000, 3000)).save(whole)
    content = bytearray(whole.read_bytes())
    content[18:26] = struct.pack("<ii", 29_000, 29_000)
    bomb.write_bytes(content)
    read: list[Path] = []
    reads = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: (read.append(path), reads(path))[1])
    with quiet_pillow():
        for path, reason in ((film, "not a PNG"), (bomb, "far too large")):
            with pytest.raises(PictureError, match=reason):
                Reader().read(path)
        assert Reader().read(whole)[1].width == 4000
    assert read == [whole]


def test_a_file_of_gigabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(3 * 10**9)  # it takes no space on the disk
    with pytest.raises(PictureError, match=r"3\.0 GB is too large"):
        Reader().read(path)


def test_bytes_that_are_known_are_not_decoded_again(mycat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mycat / "cut.png").write_bytes((mycat / "0.png").read_bytes()[:100])
    Image.new("RGBA", (9, 7), (0, 0, 0, 0)).save(mycat / "clear.png")
    data = DataSection(cache_dir=mycat.parent / "cache")
    plain = scan_folder(mycat, "x")
    with decoder_counted(monkeypatch) as first:
        assert scan_folder(mycat, "x", reader=Reader.of(data)) == plain
    with decoder_counted(monkeypatch) as second:
        assert scan_folder(mycat, "x", reader=Reader.of(data)) == plain
    assert (len(first), second) == (7, [])
    # The same name with other bytes, as old as before: found by content alone.
    old = (mycat / "0.png").stat()
    painted(31, 17, 9).save(mycat / "0.png")
    os.utime(mycat / "0.png", ns=(old.st_atime_ns, old.st_mtime_ns))
    changed = (mycat / "0.png").read_bytes()
    with decoder_counted(monkeypatch) as third:
        picture = scan_folder(mycat, "x", reader=Reader.of(data)).pictures[0]
    assert third == [changed]
    assert (picture.width, picture.height) == (31, 17)
    assert picture.digest == hashlib.sha256(changed).hexdigest()


def test_another_decoder_or_pillow_finds_everything_again(
    mycat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = mycat.parent / "facts"
    scan_folder(mycat, "x", reader=Reader(index=FactsIndex(index)))
    for name, value in (("VERSION", "next"), ("version_for", lambda data: "Pillow 99.0")):
        with decoder_counted(monkeypatch) as decoded, monkeypatch.context() as patch:
            patch.setattr(read, name, value)
            scan_folder(mycat, "x", reader=Reader(index=FactsIndex(index)))
        assert len(decoded) == 5


def test_what_this_machine_cannot_read_now_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    painted(8, 8).save(tmp_path / "a.png")
    reader = Reader(index=FactsIndex(tmp_path / "facts"))

    def full(*arguments: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "verify", full)
        patch.setattr("PIL.PngImagePlugin.PngImageFile.verify", full)
        with pytest.raises(PictureError, match="not enough memory"):
            reader.read(tmp_path / "a.png")
    assert reader.read(tmp_path / "a.png")[1].width == 8


def test_the_background_is_part_of_what_a_transparent_picture_is(mycat: Path) -> None:
    Image.new("RGBA", (9, 7), (0, 0, 0, 0)).save(mycat / "clear.png")
    white, blue = (scan_folder(mycat, "x", reader=Reader(background)) for background in ("white", "blue"))
    assert "clear.png: transparent parts became blue" in blue.notes
    assert [p.content == q.content for p, q in zip(white.pictures, blue.pictures, strict=True)] == (
        [True] * 5 + [False]
    )
    assert white.pictures[5].content == white.pictures[5].digest
    assert [f.pictures[5].read().getpixel((0, 0)) for f in (white, blue)] == [(255, 255, 255), (0, 0, 255)]


def test_a_background_is_a_color() -> None:
    for right in ("white", "Gray", "#0080ff"):
        assert not list(DataSection(background=right).faults())
    for wrong in ("", "whit", "#fff", "rgb(0,0,0)", "#00000000"):
        assert [f.where for f in DataSection(background=wrong).faults()] == ["data.background"]


def test_progress_counts_every_file(mycat: Path) -> None:
    (mycat / "bad.png").write_bytes(b"")
    said: list[tuple[int, int]] = []
    scan_folder(mycat, "x", reader=Reader(progress=lambda done, total: said.append((done, total))))
    assert said == [(i, 6) for i in range(1, 7)]


def test_a_cache_that_cannot_be_written_is_told_before_long_work(mycat: Path) -> None:
    (mycat / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written") as error:
        scan_folder(mycat, "x", reader=Reader(index=FactsIndex(mycat / "file" / "facts")))
    assert error.value.where == f"data.cache_dir = {mycat / 'file'}"


def _peak(folder: Path, result: Connection) -> None:
    """Sends how many bytes more than now this process needs to read the pictures of a folder, twice."""
    keep_freed_memory()  # as runs do
    Path("/proc/self/clear_refs").write_text("5")  # the highest so far is forgotten

    def kilobytes(what: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(what)).split()[1])

    def shown(picture: Picture) -> None:
        with picture.opened() as image:
            cropped(image, place((picture.height, picture.width), (64, 64)))

    before = kilobytes("VmRSS")
    reader = Reader()
    reader.map(shown, scan_folder(folder, "x", reader=reader).pictures)
    result.send(1024 * (kilobytes("VmHWM") - before))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")
def test_large_pictures_are_in_memory_once_and_one_at_a_time(tmp_path: Path) -> None:
    width, height = 8_000, 6_500  # 52 megapixels, which Pillow keeps as 4 bytes each: 208 MB
    image = Image.linear_gradient("L").resize((width, height), Image.Resampling.NEAREST).convert("RGB")
    for name in ("1.bmp", "2.jpg"):
        image.save(tmp_path / name)
    del image
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_peak, args=(tmp_path, theirs))
    process.start()
    theirs.close()
    peak = ours.recv()
    process.join()
    # One picture and its file (two would be 208 MB more), and what it takes to resize it.
    assert peak < 4 * width * height + (tmp_path / "1.bmp").stat().st_size + 60e6
