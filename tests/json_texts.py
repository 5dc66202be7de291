"""Messages as JSON texts in any style: white space, escapes and order are drawn, so that json.dumps's own is not all that is read."""

import json
import string
from typing import Any

from hypothesis import strategies as st

from mesh.subjects import NAME_KEYS

white = st.text(" \t\r\n", max_size=3)
names = st.text(max_size=12)  # all of Unicode, lone surrogates included
numbers = st.one_of(
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([10**29 + 1, -(10**40)]),
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, names),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=8,
)
identifiers = st.one_of(names, st.integers(min_value=-(10**20), max_value=10**20))
methods = st.one_of(st.sampled_from([*NAME_KEYS, "server/discover", "ping", "x/y"]), names)


class Writer:
    """Writes a value as JSON text, with white space and escapes that `draw` chooses."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw

    def space(self) -> str:
        return str(self.draw(white))

    def text(self, value: str) -> str:
        return '"' + "".join(map(self.character, value)) + '"'

    def character(self, char: str) -> str:
        escaped = json.dumps(char)[1:-1]
        if (len(escaped) > 1 and char < "\x80") or "\ud800" <= char <= "\udfff":
            return escaped
        if self.draw(st.booleans()):
            return "".join(f"\\u{unit:04x}" for unit in _units(char))
        return char

    def value(self, value: Any) -> str:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return self.members(list(value.items()))
        if isinstance(value, list):
            return "[" + ",".join(self.space() + self.value(each) + self.space() for each in value) + self.space() + "]"
        return json.dumps(value)

    def members(self, pairs: list[tuple[str, Any]]) -> str:
        parts = (self.space() + self.text(key) + self.space() + ":" + self.space() + self.value(each) + self.space() for key, each in pairs)
        return "{" + ",".join(parts) + self.space() + "}"


def _units(char: str) -> list[int]:
    raw = char.encode("utf-16-be", "surrogatepass")
    return [int.from_bytes(raw[at : at + 2]) for at in range(0, len(raw), 2)]


@st.composite
def requests(draw: Any) -> bytes:
    """A valid request or notification, as bytes."""
    method = draw(methods)
    pairs: list[tuple[str, Any]] = [("jsonrpc", "2.0"), ("method", method)]
    if draw(st.booleans()):
        pairs.append(("id", draw(identifiers)))
    params: dict[str, Any] = draw(st.dictionaries(names.filter(lambda key: key not in ("_meta", "requestId", "progressToken")), values))
    key = NAME_KEYS.get(method)
    if key is not None:
        params[key] = draw(names)
    if draw(st.booleans()):
        params["_meta"] = draw(st.dictionaries(names, values, max_size=2))
        if draw(st.booleans()):
            params["_meta"]["progressToken"] = draw(identifiers)
    if params or key is not None or draw(st.booleans()):
        pairs.append(("params", dict(draw(st.permutations(list(params.items()))))))
    pairs += draw(st.dictionaries(st.text(string.ascii_uppercase, min_size=1, max_size=3), values, max_size=2)).items()
    return _write(draw, pairs)


@st.composite
def responses(draw: Any) -> bytes:
    pairs: list[tuple[str, Any]] = [("jsonrpc", "2.0"), ("id", draw(identifiers))]
    if draw(st.booleans()):
        pairs.append(("result", draw(values)))
    else:
        pairs.append(("error", {"code": -32000, "message": draw(names), "data": draw(values)}))
    return _write(draw, pairs)


def _write(draw: Any, pairs: list[tuple[str, Any]]) -> bytes:
    writer = Writer(draw)
    text = writer.space() + writer.members(draw(st.permutations(pairs))) + writer.space()
    return text.encode()
