"""Every error that finetune raises on purpose.

```
FinetuneError            something went wrong; the command ends with `exit_code`
├── UserError            the user's input was wrong and can be mended (exit code 2)
│   ├── ConfigError      a flag, a YAML key or a value
│   ├── DataError        pictures and captions
│   ├── ModelError       the pretrained model
│   └── WeightsError     a LoRA or checkpoint file that does not fit
├── NonFiniteLoss        the loss became NaN or infinite (exit code 1)
└── Interrupted          the user stopped the run after a checkpoint (exit code 130)
```
"""

from __future__ import annotations


class FinetuneError(Exception):
    """Base of the errors that are reported without a traceback."""

    exit_code = 1


class UserError(FinetuneError):
    """Wrong input, told as what is wrong, where, and how to mend it.

    Args:
        what: One sentence that says what is wrong.
        where: The flag, key, file or folder it was found in.
        mend: One sentence that says what to do instead.
    """

    exit_code = 2

    def __init__(self, what: str, *, where: str | None = None, mend: str | None = None) -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.mend:
            lines.append(f"  mend:  {self.mend}")
        return "\n".join(lines)


class ConfigError(UserError):
    """A flag, a YAML key or a value that is not valid."""


class DataError(UserError):
    """A folder of pictures or captions that cannot be trained on."""


class ModelError(UserError):
    """A pretrained model that cannot be found, read or recognised."""


class WeightsError(UserError):
    """A LoRA or checkpoint file that is damaged or made for something else."""


class NonFiniteLoss(FinetuneError):
    """The loss became NaN or infinite; the last checkpoint is untouched."""


class Interrupted(FinetuneError):
    """The user interrupted the run; a checkpoint was written first."""

    exit_code = 130
