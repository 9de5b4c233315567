"""Prior preservation: pictures of the class beside the pictures of the subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from finetune.data.encoded import Progress
from finetune.data.folder import Folder
from finetune.data.record import Entry
from finetune.data.source import PictureSource
from finetune.diffusion.batch import Batch


class PriorSource:
    """Each sample of the subject brings a sample of its class along (Ruiz et al. 2022, arXiv:2208.12242).

    Sample `n` is two rows: the subject's with weight 1, and one of the class with weight λ and random
    draws of its own. Summed and divided by the number of samples their loss is L + λ·L_prior.

    Args:
        instances: The subject's pictures.
        classes: The class's pictures.
        weight: λ.
    """

    def __init__(self, instances: PictureSource, classes: PictureSource, weight: float) -> None:
        self.instances, self.classes, self.weight = instances, classes, weight

    @property
    def folder(self) -> Folder:
        """The subject's pictures."""
        return self.instances.folder

    def __len__(self) -> int:
        """Samples of an epoch: the subject's."""
        return len(self.instances)

    def batches(self, numbers: Sequence[int]) -> list[Batch]:
        """The rows of the subject and as many of the class, those of one shape together."""
        # The subject's samples never have negative numbers, so no draw is shared (P1).
        prior = self.classes.batches([-1 - number for number in numbers])
        prior = [replace(batch, weight=batch.weight * self.weight) for batch in prior]
        return Batch.by_shape([*self.instances.batches(numbers), *prior])

    def captions(self) -> list[str]:
        """The distinct captions of the subject's pictures."""
        return self.instances.captions()

    def prepare(self, progress: Progress | None = None) -> None:
        """Encodes all pictures and captions into the caches."""
        report = progress or (lambda done, total: None)
        first = self.instances.to_encode
        total = first + self.classes.to_encode
        self.instances.prepare(lambda done, _: report(done, total))
        self.classes.prepare(lambda done, _: report(first + done, total))

    def found(self) -> list[str]:
        """As `PictureSource.found`, of both kinds of pictures."""
        return [*self.instances.found(), *(f"class {line}" for line in self.classes.found())]

    def summary(self) -> list[str]:
        """Lines for the user about both kinds of pictures."""
        return [*self.instances.summary(), *(f"class: {line}" for line in self.classes.summary())]

    def record(self) -> list[Entry]:
        """What each picture is, those of the class marked; for `pictures.jsonl`."""
        classes = [
            {**entry, "file": f"class/{entry['file']}", "class": "true"} for entry in self.classes.record()
        ]
        return [*self.instances.record(), *classes]

    def digest(self) -> str:
        """Of both kinds of pictures, in hex."""
        return f"{self.instances.digest()}+{self.classes.digest()}"
