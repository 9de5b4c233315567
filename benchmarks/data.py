"""What many pictures cost: `python -m benchmarks.data 1000 10000 100000`.

Trains a LoRA of the bundled model on so many drawn pictures with a caption each, in a folder and in tar
shards (WebDataset), which are read as a stream. The folder is trained on with an empty cache folder and once
more with what that left there. Prints seconds to the first step, pictures a second, seconds a step and peak
memory; the ratio of a step is to that with 100 pictures of the same kind. 100,000 pictures need 1.5 GB below
the folder given with `--place`.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from statistics import median

from benchmarks.machine import describe, revision
from benchmarks.measure import ROOT, Program, Run, add_arguments, in_turn, ours, run, summary
from benchmarks.pictures import scene
from benchmarks.table import markdown
from finetune.files import whole_folder

FEW = 100
"""Pictures of the run that the others' steps are compared with."""

_SIDE = 128  # pixels; JPEG files of about 6 kB
_DRAWN = 64
_A_SHARD = 1000


def pictures(count: int) -> Iterator[tuple[str, bytes, bytes]]:
    """Names without suffix, JPEG files and captions, no two of which are equal."""
    drawn = []
    for number in range(_DRAWN):
        file = io.BytesIO()
        scene(number, _SIDE).save(file, "JPEG", quality=90)
        drawn.append(file.getvalue())
    for number in range(count):
        # A comment after the file's first marker: other bytes, as long to decode.
        jpeg, words = drawn[number % _DRAWN], f"scene {number}".encode()
        comment = b"\xff\xfe" + (len(words) + 2).to_bytes(2, "big") + words
        yield f"{number:06}", jpeg[:2] + comment + jpeg[2:], words


def write_files(place: Path, count: int) -> None:
    """Pictures with caption files, a thousand a folder."""
    for name, jpeg, caption in pictures(count):
        folder = place / name[:3]
        folder.mkdir(exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(jpeg)
        (folder / f"{name}.txt").write_bytes(caption)


def write_shards(place: Path, count: int) -> None:
    """Tar files of a thousand pictures, as WebDataset has them."""
    rows = pictures(count)
    for shard in range(-(-count // _A_SHARD)):
        with tarfile.open(place / f"{shard:05}.tar", "w") as tar:
            for name, jpeg, caption in islice(rows, _A_SHARD):
                for suffix, content in (("jpg", jpeg), ("txt", caption)):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


KINDS = {"folder": write_files, "webdataset": write_shards}


def made(place: Path, kind: str, count: int) -> Path:
    """A set of pictures; one that is there is used again."""
    folder = place / f"{kind}-{count}"
    if not folder.exists():
        with whole_folder(folder) as aside:
            KINDS[kind](aside, count)
    return folder


def program(folder: Path, cache: Path | None) -> Program:
    """The run that is measured."""
    settings = ["preview.every=0", "training.checkpoint_every=100000"]
    settings += [f"data.cache_dir={cache}"] if cache else []
    sets = (word for setting in settings for word in ("--set", setting))
    return ours(
        ROOT, "lora", "--model", "storybook", "--instance-dir", str(folder), "--steps", "100000", *sets
    )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("counts", type=int, nargs="*", default=[1000, 10_000], help="numbers of pictures")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--place", type=Path, help="folder of the pictures, kept (default: a temporary one)")
    add_arguments(parser, repeats=3)
    parser.set_defaults(steps=200)
    given = parser.parse_args()
    place = given.place or Path(tempfile.mkdtemp(prefix="benchmark-data-"))
    place.mkdir(parents=True, exist_ok=True)
    try:
        told = {**describe(), "finetune": revision(ROOT)}
        tables = [table(place.resolve(), kind, given) for kind in given.kinds]
    finally:
        if given.place is None:
            shutil.rmtree(place)
    print("\n".join(f"- {key}: {value}" for key, value in told.items()))
    print("\n" + "\n\n".join(tables))


def table(place: Path, kind: str, given: argparse.Namespace) -> str:
    """The figures of one kind of source, as Markdown."""
    counts = sorted({FEW, *given.counts})
    cold: dict[int, Run] = {}
    programs: dict[str, Program] = {}
    logs = place / "logs"
    logs.mkdir(exist_ok=True)
    for count in counts:
        cache = place / f"cache-{kind}-{count}" if kind == "folder" else None  # of a stream nothing is kept
        if cache:
            shutil.rmtree(cache, ignore_errors=True)
        programs[f"{count:,}"] = one = program(made(place, kind, count), cache)
        cold[count] = run(one, 2, logs / f"cold-{kind}-{count}.log")
        print(f"{kind} of {count:,}, cold: {cold[count].failure or f'{cold[count].first:.1f} s'}", flush=True)
    warm = in_turn(programs, given.steps, given.repeats, logs / kind, given.patience)
    base = summary(warm[f"{FEW:,}"])
    rows = []
    for count in counts:
        first, again = cold[count], summary(warm[f"{count:,}"])
        if failure := first.failure or again.failure:
            rows.append([f"{count:,}", failure, *[""] * 6])
            continue
        # Of a stream nothing is encoded before the first step.
        rate = (count - FEW) / (first.first - cold[FEW].first) if kind == "folder" and count > FEW else 0
        rows.append(
            [
                f"{count:,}",
                f"{first.first:.1f}",
                f"{rate:,.0f}" if rate > 0 else "–",
                f"{first.memory:.2f}",
                f"{again.first:.1f}",
                f"{again.memory:.2f}",
                f"{median(one for r in warm[f'{count:,}'] for one in r.steps) * 1000:.1f}",
                f"{again.step / base.step:.3f}",
            ]
        )
    header = (
        *(kind, "first step, s", "pictures/s", "peak GiB"),
        *("second start, s", "peak GiB", "ms/step", "ratio"),
    )
    return markdown(header, rows)


if __name__ == "__main__":
    main()
