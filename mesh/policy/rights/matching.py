"""Whether permissions cover a subject: as the broker decides it, token by token.

`*` in a permission is one token, `>` one or more at its end. A wildcard in the *subject* is a token like any other: so a subscription to
`a.>` is covered by `a.*`, though it takes in more; the server does the same. No permission covers an empty token.

Permissions are looked up as a tree of tokens, as the server does it: a list of tools asks once for each tool, and a role may have hundreds
of entries. Source: nats-server, sublist.go (`Match`), client.go (`canSubscribe`, `pubAllowed`); a test asks the server itself.
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

REST: Final = ">"
ONE: Final = "*"
END: Final = ""
"""Marks a node at which a permission ends. It is no token of a subject."""


class _Node(dict[str, "_Node"]):
    """What may follow, by token."""


def matches(allowed: str, subject: str) -> bool:
    """Whether one permission covers `subject`."""
    return _covers(_tree([allowed]), subject)


def covers(permissions: tuple[str, ...], subject: str) -> bool:
    """Whether some permission covers `subject`."""
    return _covers(_known_tree(permissions), subject)


def includes(permissions: tuple[str, ...], wanted: str) -> bool:
    """Whether one permission lets one hear every subject that the filter `wanted` takes. Stricter than `covers`: for consumers, whose
    filters the broker holds nobody to."""
    return any(_includes(each.split("."), wanted.split(".")) for each in permissions)


def _includes(allowed: list[str], wanted: list[str]) -> bool:
    for at, token in enumerate(allowed):
        if token == REST:
            return len(wanted) > at
        if at == len(wanted) or wanted[at] == REST or token not in (ONE, wanted[at]):
            return False
    return len(allowed) == len(wanted)


def _covers(tree: _Node, subject: str) -> bool:
    tokens = subject.split(".")
    return all(tokens) and _find(tree, tokens, 0)


def _find(node: _Node, tokens: list[str], at: int) -> bool:
    if at == len(tokens):
        return END in node
    if REST in node:
        return True
    found = node.get(tokens[at])
    if found is not None and _find(found, tokens, at + 1):
        return True
    found = node.get(ONE)
    return found is not None and _find(found, tokens, at + 1)


def _tree(permissions: Iterable[str]) -> _Node:
    root = _Node()
    for permission in permissions:
        node = root
        for token in permission.split("."):
            node = node.setdefault(token, _Node())
        node[END] = _Node()
    return root


@lru_cache(maxsize=64)
def _known_tree(permissions: tuple[str, ...]) -> _Node:
    return _tree(permissions)
