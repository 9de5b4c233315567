"""The losses of every case's first steps at a fixed seed.

A change that is not meant to change training must leave them as they are. Where one is meant to, they
are renewed, and the difference is looked at before it is committed:

```
python -m tests.battery.golden
```
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from finetune.recipes.run import Run
from tests.battery.cases import CASES, put_together
from tests.tiny import FAMILIES, tiny_backbone_folder

FILE = Path(__file__).parent / "golden_losses.json"


def losses(this: Run) -> list[float]:
    """The loss of each of the four steps of a finished run."""
    lines = [json.loads(line) for line in this.folder.metrics.read_text().splitlines()]
    # In these cases every step has as many class pictures as others, if it has any: this is their sum.
    return [line["loss"] + line.get("preserved_loss", 0.0) for line in lines]


def main() -> None:
    """Writes the file anew."""
    from tests.conftest import draw_pictures

    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.chdir(place)  # class pictures go below it
        pictures = draw_pictures(place)
        for family in FAMILIES:
            model = tiny_backbone_folder(family, place / "models")
            for case in CASES:
                key = f"{case.name} {family}"
                this = put_together(case, model, pictures, place / key)
                this.trainer.run()
                found[key] = [round(v, 6) for v in losses(this)]
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
