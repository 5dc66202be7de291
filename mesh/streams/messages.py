"""What is said on a stream, as kind and bytes: bytes stay bytes, text is UTF-8, anything else is JSON."""

import json
from typing import Any

from mesh.errors import ConfigError, MalformedMessage, RemoteError
from mesh.policy.stream_flow import Item, Kind
from mesh.wire.control import MESH_ERROR
from mesh.wire.jsonrpc import dumps

LONGEST_REASON = 500


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
