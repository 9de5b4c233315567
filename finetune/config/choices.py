"""Settings that name one of several parts (an optimizer, a sampler), each defined by one row.

Add a part of your own with `OPTIMIZERS["mine"] = Optimizer(…)` before a recipe names it; it is
then valid in every recipe, flag and YAML file. Nothing here imports PyTorch, so that `--help` is fast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, TypeVar

from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticKnownError, core_schema


@dataclass(frozen=True, kw_only=True)
class Row:
    """One part.

    Attributes:
        settings: Those of the same section that only some parts use, this one included.
    """

    settings: tuple[str, ...] = ()


_HUB_CODE = "kernels"
RowT = TypeVar("RowT", bound=Row)


class Choices(dict[str, RowT]):
    """The parts that a setting can name; in `Annotated[str, …]` it is the setting's type.

    Args:
        key: The setting's dotted key.
        rows: By name, in the order of help and documentation.
    """

    def __init__(self, key: str, rows: Mapping[str, RowT]) -> None:
        super().__init__(rows)
        self.key = key

    def that_use(self, setting: str) -> list[str] | None:
        """The names of the parts that use a setting; None if the part does not matter to it."""
        return [name for name, row in self.items() if setting in row.settings] or None

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._known)

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        return {"type": "string", "enum": list(self)}

    def _known(self, name: Any) -> str:
        if isinstance(name, str) and name in self:
            return name
        *others, last = map(repr, self)
        # The error of a `Literal`, which is reported with the nearest name.
        raise PydanticKnownError("literal_error", {"expected": f"{', '.join(others)} or {last}"})


def choices_of(field: FieldInfo) -> Choices[Any] | None:
    """The parts that a setting can name; None if it is a setting of another kind."""
    return next((extra for extra in field.metadata if isinstance(extra, Choices)), None)


def imported(place: str) -> Any:
    """Imports what "module:name" names.

    Raises:
        Exception: Whatever a library raises that cannot be imported here.
    """
    module, _, name = place.partition(":")
    with _without_hub_code():
        return getattr(import_module(module), name)


@contextmanager
def _without_hub_code() -> Iterator[None]:
    """Inside, the package `kernels` seems to be missing.

    bitsandbytes would have it fetch compiled code from the Hub and run it, only because it is imported (P6).
    """
    here = {name: module for name, module in sys.modules.items() if name == _HUB_CODE}
    sys.modules[_HUB_CODE] = None  # type: ignore[assignment]  # to Python, a module that does not exist
    try:
        yield
    finally:
        del sys.modules[_HUB_CODE]
        sys.modules.update(here)
