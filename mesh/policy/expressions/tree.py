"""The checked expression as a tree, out of the bytes in which the library hands it out.

The bytes are a `CheckedExpr` of the CEL specification (proto/cel/expr/checked.proto and syntax.proto, numbers of its fields below) in the
wire format of Protocol Buffers. Reading the dozen fields that we need takes this page; the generated classes would take two more packages.
Macros are expanded: `all`, `exists`, `map` and the like are comprehensions.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["const", "ident", "select", "call", "list", "struct", "comprehension"]


@dataclass(frozen=True, slots=True)
class Node:
    """One node. `name` is what an ident, a field or a function is called, or the message that a struct makes.

    `parts` are its operands: for a call the target first, for a struct all keys and values, for a comprehension range, start, condition,
    step and result.
    """

    id: int
    kind: Kind
    name: str = ""
    parts: tuple["Node", ...] = ()
    value: object = None
    """Of a const: a text, bytes, a number, or None for the rest. Of a select: whether it only asks if the field is there."""
    variable: str = ""
    accumulator: str = ""

    def all(self) -> Iterator["Node"]:
        """This node and all below it."""
        yield self
        for part in self.parts:
            yield from part.all()


@dataclass(frozen=True, slots=True)
class Tree:
    root: Node
    positions: Mapping[int, int] = field(default_factory=dict)
    """By a node's id: where it begins, in characters."""


_MESSAGE: Final = 2
"""The wire type of texts, bytes and messages."""

_Fields = dict[int, list[int | bytes]]


def parse(checked: bytes) -> Tree:
    """The tree of what `Expression.serialize` gave: a `google.protobuf.Any` that holds a CheckedExpr."""
    expr = _fields(_bytes(_fields(checked), 2))
    source = _fields(_bytes(expr, 5))
    entries = (_fields(entry) for entry in source.get(4, ()) if isinstance(entry, bytes))
    return Tree(_node(_bytes(expr, 4)), {_int(entry, 1): _int(entry, 2) for entry in entries})


def _node(raw: bytes) -> Node:
    said = _fields(raw)
    id = _int(said, 2)
    if 3 in said:
        return Node(id, "const", value=_constant(_fields(_bytes(said, 3))))
    if 4 in said:
        return Node(id, "ident", _text(_fields(_bytes(said, 4)), 1))
    if 5 in said:
        select = _fields(_bytes(said, 5))
        return Node(id, "select", _text(select, 2), (_node(_bytes(select, 1)),), bool(_int(select, 3)))
    if 6 in said:
        call = _fields(_bytes(said, 6))
        target = (_node(_bytes(call, 1)),) if 1 in call else ()
        return Node(id, "call", _text(call, 2), (*target, *_nodes(call, 3)))
    if 7 in said:
        return Node(id, "list", parts=_nodes(_fields(_bytes(said, 7)), 1))
    if 8 in said:
        struct = _fields(_bytes(said, 8))
        entries = [_fields(entry) for entry in struct.get(2, ()) if isinstance(entry, bytes)]
        parts = tuple(_node(_bytes(entry, each)) for entry in entries for each in (3, 4) if each in entry)
        return Node(id, "struct", _text(struct, 1), parts)
    loop = _fields(_bytes(said, 9))
    parts = tuple(_node(_bytes(loop, each)) for each in (2, 4, 5, 6, 7))
    return Node(id, "comprehension", parts=parts, variable=_text(loop, 1), accumulator=_text(loop, 3))


def _nodes(said: _Fields, number: int) -> tuple[Node, ...]:
    return tuple(_node(each) for each in said.get(number, ()) if isinstance(each, bytes))


def _constant(said: _Fields) -> object:
    for number, value in said.items():
        if number == 6:
            return bytes(_bytes(said, 6)).decode()
        if number == 7:
            return _bytes(said, 7)
        if number in (3, 4):
            return value[0]
    return None


def _fields(raw: bytes) -> _Fields:
    found: _Fields = {}
    at = 0
    while at < len(raw):
        key, at = _varint(raw, at)
        number, wire = key >> 3, key & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(raw, at)
        elif wire == _MESSAGE:
            length, at = _varint(raw, at)
            value, at = raw[at : at + length], at + length
        else:  # a fixed number of 8 or 4 bytes: a double
            length = 8 if wire == 1 else 4
            value, at = raw[at : at + length], at + length
        found.setdefault(number, []).append(value)
    return found


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _bytes(said: _Fields, number: int) -> bytes:
    value = said.get(number, [b""])[0]
    return value if isinstance(value, bytes) else b""


def _text(said: _Fields, number: int) -> str:
    return _bytes(said, number).decode()


def _int(said: _Fields, number: int) -> int:
    value = said.get(number, [0])[0]
    return value if isinstance(value, int) else 0
