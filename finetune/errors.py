"""Every error that finetune raises on purpose.

```
FinetuneError            something went wrong; the command ends with `exit_code`
├── UserError            the user's input was wrong and can be fixed (exit code 2)
│   ├── ConfigError      a flag, a YAML key or a value
│   ├── DataError        pictures and captions
│   ├── ModelError       the pretrained model
│   ├── WeightsError     a LoRA or checkpoint file that does not fit
│   ├── PlaceError       a file or folder that cannot be written or read
│   └── OutOfMemory      the machine's memory, or the GPU's, is too small
├── NonFiniteLoss        the loss became NaN or infinite (exit code 1)
└── Interrupted          the user stopped the run after a checkpoint (exit code 130)
```
"""

from __future__ import annotations

import errno


class FinetuneError(Exception):
    """Base of the errors that are reported without a traceback."""

    exit_code = 1


class UserError(FinetuneError):
    """Wrong input: what is wrong, where, and how to fix it.

    Args:
        what: One sentence that says what is wrong.
        where: The flag, key, file or folder it was found in.
        fix: One sentence that says what to do instead.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what, self.where, self.fix = what, where, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            where = self.where.replace("\n", "\\n")  # a file name may hold one
            lines.append(f"  where: {where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class ConfigError(UserError):
    """A flag, a YAML key or a value that is not valid."""


class DataError(UserError):
    """A folder of pictures or captions that cannot be trained on."""


class ModelError(UserError):
    """A pretrained model that cannot be found, read or recognized."""


class WeightsError(UserError):
    """A LoRA or checkpoint file that is damaged or made for something else."""


class PlaceError(UserError):
    """A file or folder that cannot be written or read: full, forbidden, gone."""


class OutOfMemory(UserError):
    """The memory of the machine or of its GPU is too small for what was asked.

    Args:
        where: What was being done, or the file.
    """

    def __init__(self, where: str | None = None) -> None:
        super().__init__(
            "Out of memory.",
            where=where,
            fix="Lower the batch size (more gradient accumulation gives the same steps) or the resolution, "
            "set training.gradient_checkpointing=true, use --precision bf16, or close other programs.",
        )


def memory_ran_out(error: BaseException) -> bool:
    """Whether an exception of Python, PyTorch or the system says that there is no memory left."""
    cause = error.__cause__ or error.__context__  # libraries wrap it in errors of their own
    return (
        isinstance(error, MemoryError)
        or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
        or any(words in str(error).lower() for words in _NO_MEMORY)
        or (cause is not None and memory_ran_out(cause))
    )


_NO_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to mmap",
    "bad_alloc",
    "could not create a primitive",  # all that oneDNN says
    "can't start new thread",  # no memory for its stack
    # Python, where a library written in C had no room even for the error.
    "error return without exception set",
    "without setting an exception",
)

_MORE_SPACE = "Free some space, or choose a folder on another disk."
_OF_THE_SYSTEM = {
    errno.ENOSPC: ("The disk is full.", _MORE_SPACE),
    errno.EDQUOT: ("Your disk quota is used up.", _MORE_SPACE),
    errno.EFBIG: ("The file is larger than this system allows.", "Raise the limit, or choose another disk."),
    errno.EROFS: ("This location is read-only.", "Choose a folder that can be written."),
    errno.EACCES: ("Permission denied.", "Change the permissions, or choose another location."),
    errno.EPERM: ("This is not permitted.", "Change the permissions, or choose another location."),
    errno.ENOTDIR: ("There is a file where a folder is needed.", "Choose another location."),
    errno.EEXIST: ("There is a file where a folder is needed.", "Choose another location."),
    errno.EISDIR: ("There is a folder where a file is needed.", "Move it away, or choose another location."),
    errno.ENOTEMPTY: ("A folder is in the way.", "Move it away, or choose another location."),
    errno.ENAMETOOLONG: ("The name is too long.", "Use a shorter one."),
    errno.ENOENT: ("This does not exist, or no longer does.", "Put it back, or choose another location."),
    errno.EIO: ("The disk reports an error.", "Check the disk, or choose a folder on another one."),
    errno.EMFILE: ("Too many files are open.", "Raise the limit (ulimit -n)."),
}


def of_the_system(error: BaseException) -> UserError | None:
    """An error of the operating system, or lack of memory, as one for the user; None for any other.

    Args:
        error: What was raised; `finetune.files.named` gives an OSError its path.
    """
    if memory_ran_out(error):
        return OutOfMemory()
    if not isinstance(error, OSError) or error.errno not in _OF_THE_SYSTEM:
        return None
    what, fix = _OF_THE_SYSTEM[error.errno]
    where = error.filename if error.filename is not None else "one of the files of this command"
    return PlaceError(what, where=str(where), fix=fix)


class NonFiniteLoss(FinetuneError):
    """The loss became NaN or infinite; the last checkpoint is untouched."""


class Interrupted(FinetuneError):
    """The user interrupted the run; a checkpoint was written first."""

    exit_code = 130
