"""Members of JSON objects, found, added and cut in the bytes that hold them. What is not touched is a copy.

The text is Latin-1, one character a byte, as in `mesh.wire.jsonrpc`, so that offsets in both are the same.
"""

import json
import re
from collections.abc import Collection
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Final, NamedTuple

from mesh.errors import MalformedMessage
from mesh.wire.jsonrpc import Span, skip

_scan: Final = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
_space: Final = re.compile(r"[ \t\n\r]*").match
_start: Final = re.compile(
    rb'[ \t\n\r]*\{(?:"jsonrpc":[ ]?"2\.0",[ ]?"id":[ ]?(?:"[^"\\]*"|-?[0-9]+),[ ]?"result"'
    rb'|"id":[ ]?(?:"[^"\\]*"|-?[0-9]+),[ ]?"jsonrpc":[ ]?"2\.0",[ ]?"result"|"result"):[ ]?(?=\{)'
).match
"""The usual beginnings of a response, up to its result: most need no more to be read."""


class Part(NamedTuple):
    """A member of an object: its key, the offset of the key's quote, and start and end of its value."""

    key: str
    at: int
    start: int
    end: int


def parts(raw: bytes, start: int = 0) -> list[Part]:
    """The members of the object that begins at `start`, in order; none where there is no object. Raises MalformedMessage."""
    text = raw.decode("latin-1")
    at = _behind_space(text, start)
    found: list[Part] = []
    if text[at : at + 1] != "{":
        return found
    at = _behind_space(text, at + 1)
    try:
        while text[at] != "}":
            if text[at] == ",":
                at = _behind_space(text, at + 1)
            if text[at] != '"':
                raise ValueError(f"a key is expected at byte {at}")
            key, end = scanstring(text, at + 1, True)
            if not key.isascii():
                key = json.loads(raw[at:end])
            value = _behind_space(text, end)
            if text[value] != ":":
                raise ValueError(f"a colon is expected at byte {value}")
            value = _behind_space(text, value + 1)
            try:
                _, end = _scan(text, value)
            except RecursionError:
                end = skip(text, value)
            found.append(Part(key, at, value, end))
            at = _behind_space(text, end)
    except (ValueError, IndexError) as problem:
        raise MalformedMessage(f"this is no JSON object: {problem}", starts=raw[:40]) from None
    return found


def elements(raw: bytes, start: int) -> list[Span]:
    """Where the elements of the array that begins at `start` stand; none where there is no array. Raises MalformedMessage."""
    text = raw.decode("latin-1")
    found: list[Span] = []
    if text[start : start + 1] != "[":
        return found
    at = _behind_space(text, start + 1)
    try:
        while text[at] != "]":
            if text[at] == ",":
                at = _behind_space(text, at + 1)
            try:
                _, end = _scan(text, at)
            except RecursionError:
                end = skip(text, at)
            found.append((at, end))
            at = _behind_space(text, end)
    except (ValueError, IndexError) as problem:
        raise MalformedMessage(f"this is no JSON array: {problem}", starts=raw[:40]) from None
    return found


def find(raw: bytes, *path: str) -> Span | None:
    """Where the value at `path` stands, keys from the outermost in; the first of several. None where there is none."""
    span: Span = (0, len(raw))
    for key in path:
        found = next((part for part in parts(raw, span[0]) if part.key == key), None)
        if found is None:
            return None
        span = (found.start, found.end)
    return span


def find_text(raw: bytes, *path: str) -> str | None:
    """The string at `path`; None where there is none."""
    span = find(raw, *path)
    if span is None or raw[span[0] : span[0] + 1] != b'"':
        return None
    value = json.loads(raw[span[0] : span[1]])
    return str(value)


def find_result(raw: bytes) -> int | None:
    """Where the result of a response begins, if it is an object."""
    if (match := _start(raw)) is not None:
        return match.end()
    span = find(raw, "result")
    return span[0] if span is not None and raw[span[0] : span[0] + 1] == b"{" else None


def add(raw: bytes, start: int, members: bytes) -> bytes:
    """`members` (`"a":1,"b":2`) as the first ones of the object that begins at `start`."""
    empty = raw[_behind_space(raw.decode("latin-1"), start + 1)] == 0x7D
    return b"".join((raw[: start + 1], members, b"" if empty or not members else b",", raw[start + 1 :]))


def cut(raw: bytes, start: int, keys: Collection[str]) -> bytes:
    """The object that begins at `start` without the members that `keys` names."""
    found = parts(raw, start)
    kept = [part for part in found if part.key not in keys]
    if len(kept) == len(found):
        return raw
    inside = b",".join(raw[part.at : part.end] for part in kept)
    return b"".join((raw[: found[0].at], inside, raw[found[-1].end :]))


def add_meta(raw: bytes, members: bytes) -> bytes:
    """A request or notification with `members` in `params._meta`, each of which is made where it is missing."""
    top = parts(raw)
    params = next((part for part in top if part.key == "params"), None)
    if params is None:
        at = top[-1].end
        return b"".join((raw[:at], b',"params":{"_meta":{', members, b"}}", raw[at:]))
    meta = next((part for part in parts(raw, params.start) if part.key == "_meta"), None)
    if meta is None or raw[meta.start : meta.start + 1] != b"{":
        return add(raw, params.start, b'"_meta":{' + members + b"}")
    return add(raw, meta.start, members)


def _behind_space(text: str, at: int) -> int:
    return _space(text, at).end()  # type: ignore[union-attr]
