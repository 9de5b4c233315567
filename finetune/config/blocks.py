"""Settings by block: values for the modules of a model by the beginning of their names."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches


def longest_prefix(name: str, prefixes: Iterable[str]) -> str | None:
    """The longest of `prefixes` that `name` lies below, or None.

    Whole parts count: "up_blocks.1" is above "up_blocks.1.attentions.0" and not above "up_blocks.10".

    Args:
        name: Dotted name of a module or parameter.
        prefixes: Beginnings of such names; "" is above everything.
    """
    above = [p for p in prefixes if not p or name == p or name.startswith(f"{p}.")]
    return max(above, key=len, default=None)


def unmatched_prefixes(prefixes: Iterable[str], names: Collection[str]) -> list[tuple[str, str | None]]:
    """The prefixes that are above none of `names`, each with the nearest one that is above some.

    Args:
        prefixes: As given by the user.
        names: Dotted names.
    """
    missing = [p for p in prefixes if not any(longest_prefix(name, [p]) is not None for name in names)]
    known = beginnings(names) if missing else set()
    near = {p: get_close_matches(p, sorted(known), n=1) for p in missing}
    return [(p, near[p][0] if near[p] else None) for p in missing]


def beginnings(names: Iterable[str]) -> set[str]:
    """Every prefix of whole parts of `names`, the names themselves too."""
    return {name.rsplit(".", i)[0] for name in names for i in range(name.count(".") + 1)}
