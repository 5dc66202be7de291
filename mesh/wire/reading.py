"""Reading JSON objects from outside, member by member: whatever is not as it should be is `malformed_message`."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mesh.errors import MalformedMessage


def read_object(body: bytes, what: str = "a message") -> dict[str, Any]:
    """A JSON object. Raises MalformedMessage; its text calls it `what`."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise MalformedMessage(f"{what} is no JSON: {problem}", starts=body[:80]) from None
    if not isinstance(said, dict):
        raise MalformedMessage(f"{what} is no JSON object", starts=body[:80])
    return said


def read_text(said: Mapping[str, Any], key: str, body: bytes, what: str = "a message") -> str:
    """A member that is a text, and not empty. Raises MalformedMessage."""
    value = said.get(key)
    if not isinstance(value, str) or not value:
        raise MalformedMessage(f"{what}'s {key} is a text", starts=body[:80])
    return value


def read_time(value: object, body: bytes, what: str = "a message") -> int:
    """ISO 8601 with its zone, as nanoseconds since 1970, UTC. Raises MalformedMessage."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        raise MalformedMessage(f"{what}'s times are ISO 8601, with their zone", starts=body[:80])
    return round(at.timestamp() * 1e6) * 1000


def read_headers(raw: bytes) -> dict[str, str]:
    """The headers of a stored message, as the broker's API gives them."""
    lines = raw.decode("utf-8", "replace").split("\r\n")[1:]
    return {key: value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}


def is_brokers(body: bytes) -> bool:
    """Whether this is an answer of the broker's own, which somebody had it send where a message belongs: none of them has an `id`, and all
    of ours do."""
    try:
        return "id" not in read_object(body)
    except MalformedMessage:
        return not body.strip()
