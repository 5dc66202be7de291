"""How a stream is asked for and granted: params and result of the call `streams/open`.

Asked: `{"type", "stream", "end", "window", "window_bytes", "idle", "durable"?, "content"?}`, where `stream` is an id that the caller made
up and `end` the token of its connection. Granted: `{"agent", "end", "window", "window_bytes"}`, the numbers at most what was asked for.
Both windows hold in both directions.

A durable one is asked for with `sent`, the number of the last message that who serves it has said before, and `ended` where that was its
last.

How far a direction of a durable stream is stands in a header of each of its messages, of which the broker keeps the last (`Mark`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mesh.errors import MalformedMessage

OPEN: Final = "streams/open"
MARK_HEADER: Final = "Mesh-Said"

LONGEST_ID: Final = 64
LARGEST_WINDOW: Final = 4_096
LARGEST_WINDOW_BYTES: Final = 16 * 1024 * 1024
LARGEST_COUNT: Final = 1 << 53
MOST_DIGITS: Final = 15
LONGEST_IDLE: Final = 86_400.0
"""What may be asked for at most. Who serves may grant less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamAsked:
    type: str
    stream: str
    end: str
    window: int
    window_bytes: int
    idle: float
    durable: bool = False
    sent: int = 0
    ended: bool = False
    content: Any = None

    def params(self) -> dict[str, Any]:
        said = {
            "type": self.type,
            "stream": self.stream,
            "end": self.end,
            "window": self.window,
            "window_bytes": self.window_bytes,
            "idle": self.idle,
        }
        durable = {"durable": True, "sent": self.sent, **({"ended": True} if self.ended else {})} if self.durable else {}
        return {**said, **durable, **({} if self.content is None else {"content": self.content})}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamGranted:
    agent: str
    end: str
    window: int
    window_bytes: int

    def result(self) -> dict[str, Any]:
        return {"agent": self.agent, "end": self.end, "window": self.window, "window_bytes": self.window_bytes}


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a direction is: the number of its last message; `ended`: nothing follows it; `over`: who said it reads no more either;
    `unread`: something lies there that was not taken."""

    last: int = 0
    ended: bool = False
    over: bool = False
    unread: bool = False

    def header(self) -> str:
        return f"{self.last}{' over' if self.over else ' end' if self.ended else ''}"

    @classmethod
    def of(cls, header: str, *, unread: bool) -> "Mark":
        """What is no such header counts as nothing known."""
        number, _, state = header.partition(" ")
        if not (number.isascii() and number.isdigit() and len(number) <= MOST_DIGITS):
            return cls(unread=unread)
        return cls(int(number), state in ("end", "over"), state == "over", unread)


def read_asked(params: object) -> StreamAsked:
    """Raises MalformedMessage."""
    said = _object(params)
    idle, durable, ended = said.get("idle"), said.get("durable", False), said.get("ended", False)
    if not isinstance(idle, int | float) or not 0 < idle <= LONGEST_IDLE or not isinstance(durable, bool) or not isinstance(ended, bool):
        raise MalformedMessage(f"a stream's idle time is a number of seconds up to {LONGEST_IDLE:g}; durable and ended are true or false")
    return StreamAsked(
        type=_text(said, "type", 1024),
        stream=_text(said, "stream", LONGEST_ID),
        end=_text(said, "end", LONGEST_ID),
        window=_number(said, "window", LARGEST_WINDOW),
        window_bytes=_number(said, "window_bytes", LARGEST_WINDOW_BYTES),
        idle=float(idle),
        durable=durable,
        sent=_count(said, "sent"),
        ended=ended,
        content=said.get("content"),
    )


def read_granted(result: object) -> StreamGranted:
    """Raises MalformedMessage."""
    said = _object(result)
    return StreamGranted(
        agent=_text(said, "agent", 1024),
        end=_text(said, "end", LONGEST_ID),
        window=_number(said, "window", LARGEST_WINDOW),
        window_bytes=_number(said, "window_bytes", LARGEST_WINDOW_BYTES),
    )


def _object(said: object) -> Mapping[str, Any]:
    if not isinstance(said, dict):
        raise MalformedMessage("what is said of a stream is an object")
    return said


def _text(said: Mapping[str, Any], key: str, longest: int) -> str:
    value = said.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise MalformedMessage(f"a stream's {key} is a text of up to {longest} characters")
    return value


def _count(said: Mapping[str, Any], key: str) -> int:
    value = said.get(key, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < LARGEST_COUNT:
        raise MalformedMessage(f"a stream's {key} is a number from 0")
    return value


def _number(said: Mapping[str, Any], key: str, largest: int) -> int:
    value = said.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= largest:
        raise MalformedMessage(f"a stream's {key} is a number from 1 to {largest}")
    return value
