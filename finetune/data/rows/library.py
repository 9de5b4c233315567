"""What `datasets` and the Hub's library would say on the terminal, and their errors in our words."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from finetune.errors import DataError, FinetuneError, of_the_system

# How they name the configurations that there are.
_CONFIGURATIONS = re.compile(r"(?:Available: |available configs: |configs in the cache: )\[(.*?)\]")
_LOCAL = "or give the folder of a data set that is on this machine"


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Keeps what `datasets` and the Hub's library print off the terminal; errors arrive as exceptions."""
    import datasets
    from huggingface_hub.utils import logging as hub
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    verbosity = datasets.logging.get_verbosity(), hub.get_verbosity()
    bars = datasets.are_progress_bars_disabled(), are_progress_bars_disabled()
    datasets.disable_progress_bars()
    disable_progress_bars()
    datasets.logging.set_verbosity(logging.CRITICAL)
    hub.set_verbosity(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        datasets.logging.set_verbosity(verbosity[0])
        hub.set_verbosity(verbosity[1])
        if not bars[0]:
            datasets.enable_progress_bars()
        if not bars[1]:
            enable_progress_bars()


@contextmanager
def offline_at_once() -> Iterator[None]:
    """Has `datasets` look into its cache at once where the Hub cannot be reached.

    Otherwise it tries for half a minute first.
    """
    from datasets import config

    from finetune.backbones.hub import is_offline

    before, config.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE, is_offline()
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = before


@contextmanager
def explained(where: str) -> Iterator[None]:
    """Turns what `datasets` raises into one message for the user.

    Args:
        where: The data set.

    Raises:
        UserError: In place of any error of `datasets`, the Hub, the data or the system.
    """
    try:
        yield
    except FinetuneError:
        raise
    except Exception as error:  # files that are damaged make `datasets` raise anything
        cause: BaseException = error
        while cause.__cause__ is not None:  # wrapped in vaguer ones
            cause = cause.__cause__
        if system := of_the_system(cause):
            raise system from error
        what, fix = _in_words(error, cause)
        raise DataError(what, where=where, fix=fix) from error


def _in_words(error: BaseException, cause: BaseException) -> tuple[str, str]:
    """What is wrong, and how to fix it."""
    from datasets.exceptions import DatasetNotFoundError

    if isinstance(error, ConnectionError):
        what = "The Hub cannot be reached, and the data set is not in the local cache."
        return what, f"Connect to the network, {_LOCAL}."
    if isinstance(error, DatasetNotFoundError):
        said = str(error).splitlines()[0].rstrip(".")
        return f"{said}.", f"Check the spelling (run `hf auth login` if it is private), {_LOCAL}."
    if match := _CONFIGURATIONS.search(str(error)):
        what = f"Not one of the configurations of this data set is named: {match[1]}."
        return what, "Name one of them with data.dataset_config."
    if "scripts are no longer supported" in str(error):
        return "This data set is a Python script, which is never run.", "Use one that is files of data."
    reason = str(cause).strip().partition("\n")[0].rstrip(".")
    if not isinstance(cause, OSError | ValueError | RuntimeError):  # `ArrowException`, too, is one of them
        reason = f"{type(cause).__name__}: {reason}"
    return f"The data set cannot be read: {reason}.", "Make it again, or give another one."
