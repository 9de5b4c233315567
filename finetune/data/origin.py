"""Where the bytes of a picture are: a file, a row of a data set, or memory."""

from __future__ import annotations

import hashlib
from typing import Protocol

from finetune.errors import DataError


class Origin(Protocol):
    """A place that bytes are read from; a `Path` is one.

    Equal origins hold the same bytes, and `str()` names one for people.
    """

    def read_bytes(self) -> bytes:
        """All bytes.

        Raises:
            OSError: If they cannot be read.
        """

    def __hash__(self) -> int: ...


def unchanged(origin: Origin, digest: str, kind: str) -> bytes:
    """The bytes of a `kind` of the run, if they still have the digest they were scanned with.

    Raises:
        DataError: If they are gone or were changed.
    """
    try:
        data = origin.read_bytes()
    except OSError as error:
        raise DataError(
            f"A {kind} of the run can no longer be read: {error.strerror}.",
            where=str(origin),
            fix="Put the file back and run again.",
        ) from error
    # Its latents are cached under the scanned digest; with other bytes the cache would lie.
    if hashlib.sha256(data).hexdigest() != digest:
        raise DataError(
            f"A {kind} was changed during the run.",
            where=str(origin),
            fix="Leave the folder alone during training, and run again.",
        )
    return data
