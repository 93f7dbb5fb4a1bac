"""The YAML nodes of a rule book, and where they are in its text."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import yaml

_MAX_NODES: Final = 40_000
"""Most YAML nodes that are worth reading: twice as many as the largest book has."""


def compose(text: str) -> tuple[yaml.Node | None, Collection[yaml.Node]]:
    """Return the root of a text's nodes, and the nodes that occur more than once: those with aliases.

    Raises `yaml.YAMLError`, also for a text of very many small parts, which would take minutes, and
    `RecursionError`.
    """
    loader = _BoundedLoader(text)
    try:
        return loader.get_single_node(), loader.shared
    finally:
        loader.dispose()


class _BoundedLoader(yaml.SafeLoader):
    """A loader that counts nodes, and notes those that occur more than once."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.shared: set[yaml.Node] = set()
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._nodes += 1
        if self._nodes > _MAX_NODES:
            problem = f"more than {_MAX_NODES:,} keys and values"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=self.peek_event().start_mark)
        is_alias = self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if is_alias and node is not None:
            self.shared.add(node)
        return node


def place_of_word(text: str, node: yaml.Node, shared: Collection[yaml.Node]) -> tuple[int, int] | None:
    """Return where the text has a scalar of one word, without its quotes.

    Returns None if it cannot be replaced there: it has aliases, or is written with escapes.
    """
    if not isinstance(node, yaml.ScalarNode) or node in shared:
        return None
    begin, end = node.start_mark.index, node.end_mark.index
    if node.style in ("|", ">"):  # the line with the sign may have a comment
        begin = text.find("\n", begin, end) + 1 or begin
    at = text.rfind(node.value, begin, end)
    after = at + len(node.value)
    if at < 0:
        return None
    match node.style:
        case "|" | ">":
            whole = text[begin:at].isspace() and (text[after:end] or " ").isspace()
        case None:
            whole = after == end
        case quote:
            whole = text[at - 1] == quote and text[after:end] == quote
    return (at, after) if whole else None
