"""`finetune caption`: captions for pictures that have none."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from finetune.cli.flags import SettingsCommand, check_words, precision_flag
from finetune.cli.imports import large_imports
from finetune.cli.terminal import progress, quiet_loading, tell, tell_end, tell_warning
from finetune.errors import DataError, Interrupted
from finetune.files import check_writable, remove_partials

if TYPE_CHECKING:
    from finetune.captioning import Captioned

MODEL = "Salesforce/blip-image-captioning-large"


def _caption(
    folder: Path,
    model: str,
    prefix: str,
    prompt: str | None,
    max_tokens: int,
    batch_size: int,
    precision: str | None,
) -> None:
    for flag, text in (("--model", model), ("--prefix", prefix), ("--prompt", prompt or "")):
        check_words(text, flag)
    with large_imports():
        from finetune.captioning import Captioned, find_uncaptioned, load_captioner, write_captions
        from finetune.data.layouts import relative_name
        from finetune.data.notes import count

        quiet_loading()
    found = find_uncaptioned(folder)
    for skip in found.skipped:
        tell_warning(f"skipped {relative_name(skip.path, folder)}: {skip.reason}")
    if not found.pictures:
        tell(f"{count(found.captioned, 'picture')} in {folder}, and none without a caption.")
        return
    for place in dict.fromkeys(path.parent for path in found.pictures):
        check_writable(place)
        remove_partials(place)
    tell(f"Model: {model}.")
    captioner = load_captioner(model, prompt=prompt, max_tokens=max_tokens, precision=precision or "auto")
    tell(f"{count(len(found.pictures), 'picture')} without a caption; {found.captioned} with one.")
    done = Captioned()
    try:
        with progress("Captioning") as report:
            write_captions(
                found.pictures, captioner, prefix=prefix, batch_size=batch_size, progress=report, done=done
            )
    except KeyboardInterrupt:
        written = count(len(done.written), "caption")
        raise Interrupted(f"Interrupted. {written} written; the same command writes the rest.") from None
    _tell(done, folder, max_tokens)


def _tell(done: Captioned, folder: Path, max_tokens: int) -> None:
    """Says what was written and what was not.

    Raises:
        DataError: If nothing was.
    """
    from finetune.data.layouts import relative_name
    from finetune.data.notes import count, listing

    skipped = [f"{relative_name(skip.path, folder)}: {skip.reason}" for skip in done.skipped]
    if not done.written:
        raise DataError(
            "\n".join(["None of the pictures could be captioned:", *(f"  {line}" for line in skipped)]),
            where=str(folder),
            fix="Replace them with intact pictures, or use another model.",
        )
    for line in skipped:
        tell_warning(f"skipped {line}")
    if done.cut:
        cut = listing([relative_name(file, folder) for file in done.cut])
        tell_warning(f"{count(len(done.cut), 'caption')} cut after {max_tokens} tokens (--max-tokens): {cut}")
    file, caption = next(iter(done.written.items()))
    line = f'Wrote {count(len(done.written), "caption")}, such as {file}: "{caption}".'
    tell_end(line, list(done.written))


caption_command = SettingsCommand(
    "caption",
    callback=_caption,
    help="Write captions for pictures that have none. They go into NAME.txt beside each picture of FOLDER "
    "and of the folders below it; existing files are never changed.",
    params=[
        click.Argument(["folder"], type=click.Path(path_type=Path), metavar="FOLDER"),
        click.Option(
            ["--model"],
            default=MODEL,
            show_default=True,
            metavar="TEXT",
            help="A folder or a Hub id of a vision model of transformers, such as BLIP or Florence-2.",
        ),
        click.Option(
            ["--prefix"],
            default="",
            metavar="TEXT",
            help="Text before each caption, such as the trigger word; a comma is put between them.",
        ),
        click.Option(
            ["--prompt"],
            metavar="TEXT",
            help="What the model is asked, if not what suits it. BLIP continues the prompt, Florence-2 knows "
            "<CAPTION>, <DETAILED_CAPTION> and <MORE_DETAILED_CAPTION>, chat models take any request.",
        ),
        click.Option(
            ["--max-tokens"],
            type=click.IntRange(min=1),
            default=75,
            show_default=True,
            help="Length of a caption at most; Stable Diffusion reads 75 tokens.",
        ),
        click.Option(
            ["--batch-size"],
            type=click.IntRange(min=1),
            default=8,
            show_default=True,
            help="Pictures that are described at once.",
        ),
        precision_flag(),
    ],
)
