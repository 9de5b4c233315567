"""YAML of plain data: text, numbers, true or false, lists and names with values; nothing else (P6)."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from finetune.errors import ConfigError
from finetune.files import whole_file

MOST = 10_000
"""Maximum number of values in a text; those that an alias (`*name`) repeats count each time."""

_TAGS = {
    f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str", "seq", "map", "merge")
}


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader for plain data alone, in which a key given twice is an error."""

    # Dates stay text: no setting is a date.
    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML has it
        first: [(tag, pattern) for tag, pattern in resolvers if tag in _TAGS]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._values = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        # Counted while reading, so that a long text is not read to its end.
        self._values += 1
        node = super().compose_node(parent, index)
        if self._values > MOST and node is not None:
            raise _too_many(node)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            raise _problem(f"{node.tag} is not supported in recipes", node)
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise _problem(f"{str(node.value)[:40]!r} is not a valid {kind}", node) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise _problem("a key must be a word", key_node)
            if key in seen:
                raise _problem(f"the key {key!r} is given twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


def parse_yaml(text: str, where: str) -> Any:
    """Plain data from YAML, through the safe loader (P6).

    Raises:
        ConfigError: If it is not valid YAML or not plain data, with the line.
    """
    return parse_with_lines(text, where)[0]


def parse_with_lines(text: str, where: str) -> tuple[Any, dict[str, int]]:
    """As `parse_yaml`, and the line of each key of the first two levels: `{"optimizer.lr": 7, …}`."""
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, {}
        if _size(node, {}, ()) > MOST:
            raise _too_many(node)
        lines = dict(_lines(node))
        return loader.construct_document(node), lines
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        line = f", line {mark.line + 1}" if mark is not None else ""
    except RecursionError:
        problem, line = "it is nested too deeply", ""
    raise ConfigError(f"This is not valid YAML: {problem}.", where=f"{where}{line}", fix="Fix the line.")


def _lines(node: yaml.Node, above: str = "") -> Iterator[tuple[str, int]]:
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        if isinstance(key, yaml.ScalarNode):
            yield f"{above}{key.value}", key.start_mark.line + 1
            if not above:
                yield from _lines(value, f"{key.value}.")


def write_yaml(path: Path, values: dict[str, Any], comment: str) -> None:
    """Writes plain data as a YAML file, below `comment`."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    with whole_file(path) as aside:
        aside.write_text(head + text, encoding="utf-8")


def _too_many(node: yaml.Node) -> yaml.constructor.ConstructorError:
    return _problem(f"it holds more than {MOST:,} values", node)


def _problem(what: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, what, node.start_mark)


def _size(node: yaml.Node, known: dict[int, int], above: tuple[int, ...]) -> int:
    """How many values a node holds once every alias is written out."""
    if id(node) in above:
        raise _problem("a value contains itself", node)
    if id(node) not in known:
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [part for pair in node.value for part in pair]
        known[id(node)] = 1 + sum(_size(child, known, (*above, id(node))) for child in children)
    return known[id(node)]
