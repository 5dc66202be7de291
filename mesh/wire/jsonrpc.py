"""JSON-RPC messages as bytes: read in place, changed by splicing, never written anew.

Theory of operation
-------------------
A bridge must pass what it does not understand. Parsing a message into objects and writing it again loses
30-digit integers, `1E400`, duplicate keys, lone surrogates and key order. So a message stays the bytes that arrived, and this
module only *finds* the few parts that a bridge needs: id, method, the tool's name, the tokens in `_meta`. What has to change
on the mesh (an id, a progress token) is cut out and replaced between two offsets; every other byte is a copy.

The text is decoded as Latin-1, one character a byte, so an offset in the text is an offset in the bytes, and the C scanner of
`json` does the walking at its own speed. Numbers are kept as their text. A value that the C scanner cannot take
(nesting deeper than the recursion limit) is walked by a token loop that needs no recursion.

A key that decides where a message goes (`id`, `method`, `params.name`, …) may stand there once only: which of two a server would believe
is a guess, and a permission must not rest on a guess. All other duplicates pass.

Source: JSON-RPC 2.0 sections 4 and 5; MCP basic/index (ids are strings or integers, never null; no batches).

This module is long because the walk, its fast cases and its fallback must agree on what a message is.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from json.decoder import scanstring  # type: ignore[attr-defined]
from typing import Any, Final

from mesh.errors import MalformedMessage
from mesh.subjects import NAME_KEYS

ROUTING_KEYS: Final = frozenset({"jsonrpc", "id", "method", "params", "result", "error"})
_PARAM_KEYS: Final = frozenset({*NAME_KEYS.values(), "_meta", "requestId", "progressToken"})
_META_KEYS: Final = frozenset({"progressToken", "io.modelcontextprotocol/subscriptionId", "io.modelcontextprotocol/protocolVersion"})

_scan_value: Final = json.JSONDecoder(parse_int=str, parse_float=str).scan_once  # type: ignore[attr-defined]
_final_head: Final = re.compile(rb'\{"jsonrpc":"2\.0","id":"([A-Za-z0-9_.-]{1,200})","(result|error)":').match
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode
_space: Final = re.compile(r"[ \t\n\r]*").match
_empty: Final = re.compile(r"\{[ \t\n\r]*\}").match
_plain_key: Final = re.compile(r'[ \t\n\r]*"([^"\\\x00-\x1f]*)"[ \t\n\r]*:[ \t\n\r]*').match
_colon: Final = re.compile(r"[ \t\n\r]*:[ \t\n\r]*").match
_follows: Final = re.compile(r"[ \t\n\r]*[,}]").match
_integer: Final = re.compile(r"-?(?:0|[1-9][0-9]*)").fullmatch
_number: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?").fullmatch
_token: Final = re.compile(
    r'[ \t\n\r]*("(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9A-Fa-f]{4})*"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?'
    r"|true|false|null|NaN|-?Infinity|[][{},:])"
).match


class Kind(Enum):
    """What a message is. RESULT and ERROR end an exchange."""

    REQUEST = "request"
    NOTIFICATION = "notification"
    RESULT = "result"
    ERROR = "error"


Span = tuple[int, int]
Member = tuple[int, int, Any]
"""Start and end offset of a member's value, and the value itself (numbers as text, strings still Latin-1)."""


@dataclass(slots=True, eq=False)
class Frame:
    """One JSON-RPC message and where its parts lie. Offsets are bytes in `raw`."""

    raw: bytes
    kind: Kind
    id: str | int | None = None
    id_span: Span | None = None
    method: str | None = None
    name: str | None = None
    """The tool, prompt or resource of a request that names one (`NAME_KEYS`)."""
    era: str | None = None
    """`_meta["io.modelcontextprotocol/protocolVersion"]`: only requests of the modern era carry it."""
    token: str | int | None = None
    """The progress token: `params._meta.progressToken` of a request, `params.progressToken` of a progress notification."""
    token_span: Span | None = None
    subscription: str | int | None = None
    """`_meta["io.modelcontextprotocol/subscriptionId"]`, in `params` of a notification or in a `result`."""
    subscription_span: Span | None = None
    cancels: str | int | None = None
    """`params.requestId` of `notifications/cancelled`."""
    cancels_span: Span | None = None

    @property
    def final(self) -> bool:
        return self.kind is Kind.RESULT or self.kind is Kind.ERROR

    def splice(self, edits: Iterable[tuple[Span | None, bytes]]) -> bytes:
        """`raw` with each span replaced; spans that are None (a part that is not there) change nothing."""
        cuts = sorted((span, new) for span, new in edits if span is not None)
        if not cuts:
            return self.raw
        parts: list[bytes] = []
        at = 0
        for (start, end), new in cuts:
            parts += (self.raw[at:start], new)
            at = end
        parts.append(self.raw[at:])
        return b"".join(parts)


def scan(raw: bytes) -> Frame:
    """Read one message. Raises MalformedMessage (`malformed_message`) with what is wrong, for anything that is no JSON-RPC message."""
    text = raw.decode("latin-1")
    if not raw.isascii():
        _check_utf8(raw)
    at = 0 if text[:1] == "{" else _space(text, 0).end()  # type: ignore[union-attr]
    if text[at : at + 1] != "{":
        raise MalformedMessage("a message is one JSON object", starts=raw[:40])
    try:
        top, end = _members(text, at, ROUTING_KEYS)
    except ValueError as error:
        raise MalformedMessage(f"this is no JSON: {error}", starts=raw[:40]) from None
    if end != len(text) and _space(text, end).end() != len(text):  # type: ignore[union-attr]
        raise MalformedMessage("something follows the JSON object", starts=raw[:40])
    return _frame(raw, text, top)


def locate(raw: bytes, *path: str) -> Span | None:
    """Where the value lies that the keys of `path` lead to, in a message that was scanned; None where there is none. Raises
    MalformedMessage where one of the keys stands twice."""
    text = raw.decode("latin-1")
    span = (_space(text, 0).end(), len(raw))  # type: ignore[union-attr]
    for key in path:
        if text[span[0]] != "{":
            return None
        found, _ = _members(text, span[0], frozenset({key}))
        if key not in found:
            return None
        span = found[key][:2]
    return span


def peek_final(line: bytes) -> Frame | None:
    """A response written as the SDKs write it, known by its head; None for everything else, which `scan` then reads whole.

    For one line from a server of our own: it holds no newline, and the calling side reads all of it, so a mistake in the rest is found
    there.
    """
    found = _final_head(line)
    if found is None or line[-1:] != b"}":
        return None
    kind = Kind.RESULT if found.group(2) == b"result" else Kind.ERROR
    return Frame(line, kind, id=found.group(1).decode(), id_span=(found.start(1) - 1, found.end(1) + 1))


def of_the_broker(body: bytes) -> bool:
    """Whether it may be an answer of the broker's own, which it can be made to write to any subject: nothing, or an object without
    `jsonrpc`. So it says nothing of who owns the subject."""
    try:
        said = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return False
    return isinstance(said, dict) and "jsonrpc" not in said


def dumps(value: Any) -> bytes:
    """JSON bytes as the mesh writes them: compact, and ASCII, so that reading them again is fastest."""
    return _encode(value).encode()


def error(id: bytes, code: int, message: str, data: Any = None) -> bytes:
    """An error response. `id` is the JSON text of the request's id (`b"null"` where there was none)."""
    body: dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        body["data"] = data
    return b'{"jsonrpc":"2.0","id":' + id + b',"error":' + dumps(body) + b"}"


def _frame(raw: bytes, text: str, top: dict[str, Member]) -> Frame:
    version = top.get("jsonrpc")
    if version is None or version[2] != "2.0" or text[version[0]] != '"':
        raise MalformedMessage('"jsonrpc": "2.0" is missing', starts=raw[:40])
    id_member, method, params = top.get("id"), top.get("method"), top.get("params")
    if method is not None:
        if text[method[0]] != '"':
            raise MalformedMessage("method is not a string", starts=raw[:40])
        if "result" in top or "error" in top:
            raise MalformedMessage("a message is a request or a response, not both", starts=raw[:40])
        frame = Frame(raw, Kind.NOTIFICATION if id_member is None else Kind.REQUEST, method=_string(raw, method))
        if params is not None:
            _read_params(frame, text, params)
        elif frame.method in NAME_KEYS:
            raise MalformedMessage(f"{frame.method} has no params", starts=raw[:40])
    elif ("result" in top) is ("error" in top):
        raise MalformedMessage("a response has either a result or an error", starts=raw[:40])
    else:
        frame = Frame(raw, Kind.RESULT if "result" in top else Kind.ERROR)
        if id_member is None and frame.kind is Kind.RESULT:
            raise MalformedMessage("a result has no id", starts=raw[:40])
        if frame.kind is Kind.RESULT and "subscriptionId" in text:
            _walk(frame, text, top["result"])
    if id_member is not None:
        frame.id = _identifier(raw, text, id_member, "id", null=frame.kind is Kind.ERROR)
        frame.id_span = id_member[:2]
    return frame


def _read_params(frame: Frame, text: str, params: Member) -> None:
    start, _, value = params
    if text[start] != "{":
        raise MalformedMessage("params is not an object; MCP has named parameters only", starts=frame.raw[:40])
    key = NAME_KEYS.get(frame.method or "")
    name = value.get(key) if key and isinstance(value, dict) else None
    if _needs_walk(frame, text, value, name):
        found = _walk(frame, text, params)
        name = _string(frame.raw, found[key]) if key in found and text[found[key][0]] == '"' else None
    elif isinstance(meta := value.get("_meta"), dict) and isinstance(era := meta.get("io.modelcontextprotocol/protocolVersion"), str):
        if _ambiguous(era):
            _walk(frame, text, params)
        else:
            frame.era = era
    if key is not None:
        if not isinstance(name, str):
            raise MalformedMessage(f"params.{key} of {frame.method} is not a string", starts=frame.raw[:40])
        frame.name = name


def _needs_walk(frame: Frame, text: str, params: Any, name: Any) -> bool:
    """Whether an offset inside params is wanted, or a duplicate or an escape may hide there. Most messages need neither."""
    return (
        not isinstance(params, dict)
        or "\\" in text
        or "progressToken" in text
        or "subscriptionId" in text
        or frame.method in ("notifications/cancelled", "notifications/progress")
        or text.count('"_meta"') > 1
        or text.count('"name"') > _names(params)
        or text.count('"uri"') > 1
        or (isinstance(name, str) and _ambiguous(name))
    )


def _names(params: dict[str, Any]) -> int:
    """How many objects of a request have the key `name`, of those that usually do. If it stands in the text more often, then maybe twice in
    one of them."""
    meta = params.get("_meta")
    client = meta.get("io.modelcontextprotocol/clientInfo") if isinstance(meta, dict) else None
    return sum(isinstance(each, dict) and "name" in each for each in (params, params.get("arguments"), client)) or 1


def _ambiguous(value: str) -> bool:
    """Whether a value of the scan may not be the string it seems: Latin-1 for UTF-8, or the text of a number."""
    return not value.isascii() or _number(value) is not None


def _walk(frame: Frame, text: str, member: Member) -> dict[str, Member]:
    """Read `params` (or a `result`) member by member, and `_meta` in it, and note the offsets."""
    raw, start = frame.raw, member[0]
    if text[start] != "{":
        return {}
    found, _ = _members(text, start, _PARAM_KEYS)
    if (meta := found.get("_meta")) is not None and text[meta[0]] == "{":
        inner, _ = _members(text, meta[0], _META_KEYS)
        if (version := inner.get("io.modelcontextprotocol/protocolVersion")) is not None and text[version[0]] == '"':
            frame.era = _string(raw, version)
        if (token := inner.get("progressToken")) is not None and frame.method != "notifications/progress":
            frame.token, frame.token_span = _identifier(raw, text, token, "progressToken"), token[:2]
        if (listen := inner.get("io.modelcontextprotocol/subscriptionId")) is not None:
            frame.subscription, frame.subscription_span = _identifier(raw, text, listen, "subscriptionId"), listen[:2]
    if frame.method == "notifications/progress" and (token := found.get("progressToken")) is not None:
        frame.token, frame.token_span = _identifier(raw, text, token, "progressToken"), token[:2]
    if frame.method == "notifications/cancelled" and (cancels := found.get("requestId")) is not None:
        frame.cancels, frame.cancels_span = _identifier(raw, text, cancels, "requestId"), cancels[:2]
    return found


def _identifier(raw: bytes, text: str, member: Member, what: str, *, null: bool = False) -> str | int | None:
    start, end, value = member
    if text[start] == '"':
        return _string(raw, member)
    if end - start <= 32 and _integer(text, start, end):
        return int(text[start:end])
    if null and value is None:
        return None
    raise MalformedMessage(f"{what} must be a string or an integer", starts=raw[start : start + 40])


def _string(raw: bytes, member: Member) -> str:
    """A string member as what it says: the scan was Latin-1, so what is not ASCII is read again as UTF-8."""
    start, end, value = member
    return str(value if value.isascii() else json.loads(raw[start:end].decode()))


def _members(text: str, at: int, once: frozenset[str]) -> tuple[dict[str, Member], int]:
    """The members of the object at `at` that `once` names, each allowed one time, and the offset behind the object.

    Raises ValueError where the text is no JSON.
    """
    found: dict[str, Member] = {}
    if (empty := _empty(text, at)) is not None:
        return found, empty.end()
    while True:  # `at` is on the opening brace or on a comma
        if (match := _plain_key(text, at + 1)) is not None:
            key, at = match.group(1), match.end()
        else:
            key, at = _escaped_key(text, at + 1)
        start = at
        try:
            value, at = _scan_value(text, at)
        except RecursionError:
            value, at = None, skip(text, at)
        except StopIteration:
            raise ValueError(f"a value is expected at byte {at}") from None
        if key in once:
            if key in found:
                raise MalformedMessage(f"the key {key!r} stands twice", starts=text[:40].encode("latin-1"))
            found[key] = (start, at, value)
        if (match := _follows(text, at)) is None:
            raise ValueError(f"a comma or the object's end is expected at byte {at}")
        at = match.end()
        if text[at - 1] == "}":
            return found, at
        at -= 1


def _escaped_key(text: str, at: int) -> tuple[str, int]:
    at = _space(text, at).end()  # type: ignore[union-attr]
    if text[at : at + 1] != '"':
        raise ValueError(f"a key is expected at byte {at}")
    key, at = scanstring(text, at + 1, True)
    if (colon := _colon(text, at)) is None:
        raise ValueError(f"a colon is expected at byte {at}")
    return key, colon.end()


def skip(text: str, at: int) -> int:
    """The offset behind the value at `at`, by a token loop whose stack is a list: for nesting that the C scanner refuses."""
    stack: list[str] = []
    expect = "value"
    while True:
        match = _token(text, at)
        if match is None:
            raise ValueError(f"a {expect} is expected at byte {at}")
        token, at = match.group(1), match.end()
        if token in "]}" and expect in ("value or end", "key or end", "comma or end"):
            if not stack or stack.pop() != ("[" if token == "]" else "{"):
                raise ValueError(f"an unmatched {token} at byte {at - 1}")
        elif token == "," and expect == "comma or end":
            expect = "value" if stack[-1] == "[" else "key"
            continue
        elif token == ":" and expect == "colon":
            expect = "value"
            continue
        elif token[0] == '"' and expect in ("key", "key or end"):
            expect = "colon"
            continue
        elif token in "[{" and expect in ("value", "value or end"):
            stack.append(token)
            expect = "value or end" if token == "[" else "key or end"
            continue
        elif token in "]},:" or expect not in ("value", "value or end"):
            raise ValueError(f"a {expect} is expected at byte {at - len(token)}")
        if not stack:
            return at
        expect = "comma or end"


def _check_utf8(raw: bytes) -> None:
    try:
        raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedMessage(f"not UTF-8 at byte {error.start}", starts=raw[:40]) from None
