"""The columns of a data set: which of them is the picture, the caption, the control picture, the mask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune.config import DataSection, PairsSection
from finetune.data.layouts.offer import split
from finetune.data.notes import listing
from finetune.errors import DataError
from finetune.files import shown

if TYPE_CHECKING:
    from datasets import Features

_USUAL = {
    "image": ("image", "img", "picture", "jpg", "jpeg", "png", "webp"),
    "caption": ("text", "caption", "captions", "prompt", "txt"),
    "control": ("conditioning_image", "conditioning", "control_image", "control"),
    "mask": ("mask",),
}
_KINDS = {"image": "pictures", "caption": "text", "control": "pictures", "mask": "pictures"}


@dataclass(frozen=True)
class Columns:
    """The names of the columns that are used.

    Attributes:
        image: The pictures.
        caption: Their captions, if there are any.
        control: Their control pictures, if they are wanted and there.
        mask: The pictures that say where the loss counts, if there are any.
    """

    image: str
    caption: str | None = None
    control: str | None = None
    mask: str | None = None

    @property
    def used(self) -> list[str]:
        """All of them."""
        return [name for name in vars(self).values() if name is not None]

    @property
    def pictures(self) -> list[str]:
        """Those that hold pictures."""
        return [name for name in self.used if name != self.caption]

    def notes(self, names: Iterable[str]) -> list[str]:
        """A line about those of all columns that are not used, if there are any."""
        unused = [shown(name) for name in names if name not in self.used]
        hint = "; data.caption_column names that of the captions" if self.caption is None else ""
        return [f"columns that are not used: {listing(unused)}{hint}"] if unused else []


def find_columns(features: Features, data: DataSection, where: str) -> Columns:
    """The columns that the settings name, or else those with the usual names (in any case) and a fit type.

    Pictures without a usual name are found if only one column holds any.

    Args:
        features: The columns' types, as `datasets` has them.
        data: The recipe's settings.
        where: The data set, for messages.

    Raises:
        DataError: If there are no pictures, several columns fit, or one that is named is not there or is of
            another type; the message lists the columns.
    """
    image = _find("image", features, data, where) or _only_pictures(features)
    if image is None:
        raise _fault("No column is known to hold the pictures.", features, where, "image")
    uses = ["caption", "mask"]
    if isinstance(data, PairsSection) and data.has_controls:
        uses.append("control")
    columns = Columns(image, **{use: _find(use, features, data, where) for use in uses})
    if twice := [name for name, number in Counter(columns.used).items() if number > 1]:
        raise _fault(f"The column {twice[0]!r} is named for two uses.", features, where, "image")
    return columns


def _find(use: str, features: Features, data: DataSection, where: str) -> str | None:
    fits = _is_text if _KINDS[use] == "text" else _is_picture
    given = getattr(data, f"{use}_column")
    if given is not None and given not in features:
        raise _fault(f"There is no column {given!r}.", features, where, use)
    if given is not None and not fits(features[given]):
        raise _fault(f"The column {given!r} does not hold {_KINDS[use]}.", features, where, use)
    found = [name for name in features if _plain(name) in _USUAL[use] and fits(features[name])]
    if given is None and len(found) > 1:
        raise _fault(f"Several columns may be the {use}: {', '.join(found)}.", features, where, use)
    return given or next(iter(found), None)


def _plain(name: str) -> str:
    """A column's name in lower case; WebDataset's `conditioning.png` is `conditioning`."""
    return name.lower().partition(".")[0]


def _only_pictures(features: Features) -> str | None:
    """The only column that can hold nothing but pictures, if there is just one."""
    found = [name for name, feature in features.items() if _type_of(feature) == "picture"]
    usual = {name for names in _USUAL.values() for name in names}
    found = [name for name in found if _plain(name) not in usual]
    return found[0] if len(found) == 1 else None


def _fault(what: str, features: Features, where: str, use: str) -> DataError:
    columns = ", ".join(f"{shown(name)} ({_type_of(feature)})" for name, feature in features.items())
    return DataError(
        f"{what} The columns are: {columns}.",
        where=where,
        fix=f"Name the column of {_KINDS[use]} with data.{use}_column.",
    )


def _type_of(feature: Any) -> str:
    """A column's type in words."""
    from datasets import Image, LargeList, List, Value

    if isinstance(feature, Image) or (isinstance(feature, dict) and {*feature} == {"bytes", "path"}):
        return "picture"
    if isinstance(feature, List | LargeList):
        return f"list of {_type_of(feature.feature)}"
    return str(feature.dtype) if isinstance(feature, Value) else type(feature).__name__.lower()


def _is_picture(feature: Any) -> bool:
    return _type_of(feature).removeprefix("large_") in {"picture", "binary", "string"}


def _is_text(feature: Any) -> bool:
    return _type_of(feature).removeprefix("list of ").removeprefix("large_") == "string"


def captions_of(value: str | Sequence[str | None] | None, lines: bool) -> tuple[str, ...]:
    """The captions in a cell: of a text one (or one a line), of a list as many as it has.

    Args:
        value: The cell; None gives no captions.
        lines: Whether each line of a text is a caption of its own.
    """
    texts = [value] if isinstance(value, str) else value or ()
    return tuple(one for text in texts if text is not None for one in split(text, lines))


def bytes_and_path(value: Mapping[str, Any] | bytes | str | None) -> tuple[bytes | None, str | None]:
    """What a cell holds of a picture: its bytes, or the path they are at, or neither."""
    if isinstance(value, Mapping):
        return value["bytes"], value["path"]
    return (None, value) if isinstance(value, str) else (value, None)


def undecoded(dataset: Any) -> Any:
    """A `Dataset` or `IterableDataset` whose pictures come as the bytes they are stored as.

    Our own decoder reads them: 16 bits, color profiles and faults are then as for files.
    """
    from datasets import Image

    for name, feature in dataset.features.items():
        if isinstance(feature, Image):
            dataset = dataset.cast_column(name, Image(decode=False))
    return dataset
