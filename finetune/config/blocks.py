"""Settings by block: values for the modules of a model by name prefix."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches


def longest_prefix(name: str, prefixes: Iterable[str]) -> str | None:
    """The longest of `prefixes` that `name` begins with, or None.

    Only whole parts match: "up_blocks.1" matches "up_blocks.1.attentions.0" but not "up_blocks.10".

    Args:
        name: Dotted name of a module or parameter.
        prefixes: Beginnings of such names; "" matches everything.
    """
    matching = [p for p in prefixes if not p or name == p or name.startswith(f"{p}.")]
    return max(matching, key=len, default=None)


def unmatched_prefixes(prefixes: Iterable[str], names: Collection[str]) -> list[tuple[str, str | None]]:
    """The prefixes that match none of `names`, each with the closest one that matches some, or None.

    Args:
        prefixes: As given by the user.
        names: Dotted names.
    """
    unmatched = [p for p in prefixes if not any(longest_prefix(name, [p]) is not None for name in names)]
    known = beginnings(names) if unmatched else set()
    return [(p, next(iter(get_close_matches(p, sorted(known), n=1)), None)) for p in unmatched]


def beginnings(names: Iterable[str]) -> set[str]:
    """Every prefix of whole parts of `names`, the names themselves too."""
    return {name.rsplit(".", i)[0] for name in names for i in range(name.count(".") + 1)}
