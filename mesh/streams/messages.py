"""What is said on a stream, as kind and bytes: bytes stay bytes, text is UTF-8, anything else is JSON. And several such as one message of a
durable stream: `D`, the number of the first (8, from 1), then for each its kind (1), length (4) and body, integers big-endian."""

import json
import struct
from collections.abc import Sequence
from typing import Any, Final

from mesh.errors import ConfigError, MalformedMessage, RemoteError
from mesh.policy.stream_flow import Item, Kind
from mesh.wire.control import MESH_ERROR
from mesh.wire.jsonrpc import dumps

LONGEST_REASON: Final = 500

_FIRST: Final = struct.Struct(">cQ")
_HEAD: Final = struct.Struct(">BI")
_KINDS: Final = {kind.value: kind for kind in Kind}


def encode(message: Any) -> Item:
    """Raises ConfigError for what is neither bytes nor text nor JSON."""
    if isinstance(message, bytes | bytearray | memoryview):
        return Item(Kind.BYTES, bytes(message))
    try:
        if isinstance(message, str):
            return Item(Kind.TEXT, message.encode())
        return Item(Kind.JSON, dumps(message))
    except (TypeError, ValueError, RecursionError) as problem:
        raise ConfigError(f"a message of a stream is bytes, text or JSON: {problem}") from None


def decode(item: Item) -> Any:
    """What was said. Raises MalformedMessage for what is not what it says it is."""
    if item.kind is Kind.BYTES:
        return item.body
    try:
        return item.body.decode() if item.kind is Kind.TEXT else json.loads(item.body)
    except (ValueError, RecursionError) as problem:
        raise MalformedMessage(f"a message that cannot be read: {problem}", starts=item.body[:80]) from None


def encode_error(message: str, data: Any = None) -> bytes:
    return dumps({"message": message[:LONGEST_REASON], **({} if data is None else {"data": data})})


def decode_error(body: bytes) -> RemoteError:
    """What the other end ended its direction with."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    said = said if isinstance(said, dict) else {}
    return RemoteError(MESH_ERROR, str(said.get("message", "the other end failed")), said.get("data"))


def pack(first: int, items: Sequence[Item]) -> bytes:
    """`items` as one message, `first` the number of the first."""
    return _FIRST.pack(b"D", first) + b"".join(_HEAD.pack(item.kind.value, len(item.body)) + item.body for item in items)


def unpack(body: bytes) -> tuple[int, list[Item]]:
    """Number of the first, and at least one. Raises MalformedMessage."""
    items: list[Item] = []
    at = _FIRST.size
    if body[:1] == b"D":
        while at + _HEAD.size <= len(body):
            kind, length = _HEAD.unpack_from(body, at)
            start, at = at + _HEAD.size, at + _HEAD.size + length
            if kind not in _KINDS:
                break
            items.append(Item(_KINDS[kind], body[start:at]))
    first = _FIRST.unpack_from(body)[1] if items else 0
    if not items or at != len(body) or not first:
        raise MalformedMessage("no message of a durable stream", starts=body[:40])
    return first, items
