"""An event as it travels: CloudEvents 1.0.

We write the *structured* mode: the whole event is one JSON object, with the header `content-type: application/cloudevents+json`. On request
we write, and we always read, the *binary* mode too: attributes in headers `ce-…`, the data as body. A body without either header is read as
structured, as the binding wanted before NATS had headers.

Publisher, topic and priority are the subject's, which the broker holds the publisher to. `source` must agree: it is `/agents/{publisher}`,
or a path below it. What claims another source is refused (`MalformedMessage`), as is what lacks a required attribute. Attributes that
CloudEvents does not know are extensions, and are kept.

An event is read in one pass, and is its decoded members with the place where it lay: reading 1 KiB of JSON takes about a microsecond, less
than its frame of NATS. So nothing here is lazy, and no event turns out to be broken in the hands of a handler.

Trap answered: the broker can be made to write an answer of its own under any subject (`mesh.wire.message`). None has a `specversion`.

This module is long because an event is written and read, in either mode, by the same rules for each attribute.

Source: CloudEvents 1.0.2 (spec.md, formats/json-format.md, bindings/nats-protocol-binding.md).
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, Final
from urllib.parse import quote, unquote

from pydantic_core import from_json

from mesh import clock
from mesh.errors import ConfigError, MalformedMessage

SPEC: Final = "1.0"
CONTENT_TYPE: Final = "content-type"
STRUCTURED: Final = "application/cloudevents+json"
BINARY: Final = "ce-"
"""What the header of an attribute begins with."""

_DATA: Final = ("data", "data_base64")
_OWN: Final = frozenset({"specversion", "id", "source", "type", "subject", "time", "datacontenttype", "dataschema", *_DATA})
_TEXTS: Final = ("subject", "datacontenttype", "dataschema")
"""Optional; what there is of them is a text that is not empty."""
_MOSTLY: Final = 5
"""Attributes of an event that has the four that it must, and `time`."""
_MARKS: Final = ("--T::.", "--T::Z")
"""What stands between the numbers of `2026-11-22T23:55:04.123Z`."""

_extension: Final = re.compile(r"[a-z0-9]{1,64}").fullmatch
_time: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)").fullmatch
_SAFE: Final = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in '"%')
"""What a header says as it is (CloudEvents, HTTP binding 3.1.3.2)."""


class Event:
    """One event. `attributes` is all that it says but its data: `id`, `source`, `type`, and what else there is, extensions among it.

    `publisher`, `topic` and `priority` are the broker's word. `number` is its place in the stream and `stored_ns` when it came there (0
    where it was never stored); `delivery` says which delivery of it this is. `replayed_by` names who tells it again, if anybody does. A
    broadcast is on no topic: `to` is the role that it is sent to, or `any`. `heard_by` is the durable subscription that brought it.
    """

    __slots__ = ("attributes", "data", "delivery", "heard_by", "number", "priority", "publisher", "replayed_by", "stored_ns", "to", "topic")

    def __init__(
        self,
        attributes: dict[str, Any],
        data: Any,
        publisher: str,
        topic: str,
        priority: str = "normal",
        number: int = 0,
        stored_ns: int = 0,
        delivery: int = 1,
        replayed_by: str = "",
        to: str = "",
    ) -> None:
        self.attributes = attributes
        self.data = data
        self.publisher = publisher
        self.topic = topic
        self.priority = priority
        self.number = number
        self.stored_ns = stored_ns
        self.delivery = delivery
        self.replayed_by = replayed_by
        self.to = to
        self.heard_by = ""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is remembered by (`mesh.delivery.Key`): a publisher may use an id once on each topic, and each subscription hears it."""
        return f"{self.heard_by} {self.topic or self.to}", self.publisher, self.id

    @property
    def id(self) -> str:
        return str(self.attributes["id"])

    @property
    def source(self) -> str:
        return str(self.attributes["source"])

    @property
    def type(self) -> str:
        return str(self.attributes["type"])

    @property
    def subject(self) -> str | None:
        """What of its source it is about. No subject of NATS."""
        return self.attributes.get("subject")

    @property
    def time_ns(self) -> int | None:
        """When it happened, by its publisher's clock: nanoseconds since 1970, UTC, to the microsecond."""
        said = self.attributes.get("time")
        return None if said is None else parse_time(said)

    @property
    def extensions(self) -> dict[str, Any]:
        return {key: value for key, value in self.attributes.items() if key not in _OWN}

    def with_data(self, data: Any) -> "Event":
        """The same event with other data: what a transformation makes of it."""
        return Event(
            self.attributes,
            data,
            self.publisher,
            self.topic,
            self.priority,
            self.number,
            self.stored_ns,
            self.delivery,
            self.replayed_by,
            self.to,
        )

    def as_dict(self) -> dict[str, Any]:
        """The event in CloudEvents' JSON format."""
        if isinstance(self.data, bytes):
            return {**self.attributes, "data_base64": base64.b64encode(self.data).decode()}
        return {**self.attributes, "data": self.data}

    def __repr__(self) -> str:
        return f"Event({self.type!r} of {self.publisher!r} on {self.topic!r}, id {self.id!r}, number {self.number})"


@dataclass(frozen=True, slots=True)
class Encoded:
    """A body and its headers."""

    body: bytes
    headers: Mapping[str, str]


def parse_time(text: str) -> int:
    """Nanoseconds since 1970, UTC, to the microsecond, of a time of RFC 3339. Raises MalformedMessage."""
    try:
        at = datetime.fromisoformat(text.upper()) if _time(text) else None
    except ValueError:
        at = None
    if at is None:
        raise MalformedMessage("a time is one of RFC 3339, with its zone", starts=text[:80].encode("utf-8", "replace"))
    return round(at.timestamp() * 1e6) * 1000


@lru_cache(maxsize=4096)
def source_of(publisher: str) -> str:
    """The `source` of a participant's events."""
    return "/agents/" + quote(publisher, safe="", errors="surrogatepass")


def new_event(
    publisher: str,
    topic: str,
    data: Any,
    *,
    id: str,
    type: str,
    priority: str = "normal",
    time_ns: int | None = None,
    subject: str | None = None,
    extensions: Mapping[str, str | int | bool] | None = None,
) -> Event:
    """An event that we are about to publish. Raises ConfigError for what CloudEvents does not allow."""
    attributes: dict[str, Any] = {"specversion": SPEC, "id": id, "source": source_of(publisher), "type": type}
    attributes["time"] = clock.iso(clock.wall_ns() if time_ns is None else time_ns)
    if subject is not None:
        attributes["subject"] = subject
    if isinstance(data, bytes):
        attributes["datacontenttype"] = "application/octet-stream"
    for name, value in (extensions or {}).items():
        if not _extension(name) or name in _OWN or not isinstance(value, str | int | bool):
            raise ConfigError(
                f"an event has no extension {name!r} of this kind",
                hint="its name is made of a to z and 0 to 9, and its value is a text, a whole number, true or false",
            )
        attributes[name] = value
    if not id or not type or subject == "":
        raise ConfigError("an event's id, type and subject are not empty", hint="leave the subject out, or say something")
    return Event(attributes, data, publisher, topic, priority)


def encode(event: Event, *, binary: bool = False) -> Encoded:
    """In the structured mode, or in the binary one. Raises ConfigError where its data is no JSON."""
    attributes = event.attributes
    try:
        if not binary:
            return Encoded(_dumps(event.as_dict()), _HEADERS)
        headers = {BINARY + name: quote(_text(value), safe=_SAFE) for name, value in attributes.items() if name != "datacontenttype"}
        headers[CONTENT_TYPE] = attributes.get("datacontenttype", "application/json")
        return Encoded(event.data if isinstance(event.data, bytes) else _dumps(event.data), headers)
    except (TypeError, ValueError, RecursionError) as problem:
        raise ConfigError(f"an event's data is JSON, or bytes: {problem}", hint="turn it into dicts, lists, texts and numbers") from None


_HEADERS: Final = {CONTENT_TYPE: STRUCTURED}
_encode: Final = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
"""NaN and the infinities are no JSON: who is no Python program could not read them."""


def _dumps(value: Any) -> bytes:
    return _encode(value).encode()


def read_event(
    publisher: str,
    topic: str,
    priority: str,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    number: int = 0,
    stored_ns: int = 0,
    delivery: int = 1,
) -> Event:
    """The event that lies under a subject of this publisher, topic and priority. Raises MalformedMessage."""
    if headers and is_binary(headers):
        attributes, data = _read_binary(body, headers)
    else:
        attributes, data = split(_object(body), body)
    check(attributes, publisher, body)
    return Event(attributes, data, publisher, topic, priority, number, stored_ns, delivery)


def split(said: dict[str, Any], body: bytes = b"") -> tuple[dict[str, Any], Any]:
    """Attributes and data of a decoded event. The attributes are what is left of `said`. Raises MalformedMessage."""
    if "data_base64" not in said:
        return said, said.pop("data", None)
    if "data" in said:
        raise MalformedMessage("an event has data or data_base64, not both", starts=body[:80])
    data = _bytes(said.pop("data_base64"), body)
    return said, data


def check(attributes: Mapping[str, Any], publisher: str, body: bytes = b"") -> None:
    """Whether these are the attributes of an event of this publisher. Raises MalformedMessage."""
    get = attributes.get
    id, source, type = get("id"), get("source"), get("type")
    if get("specversion") != SPEC:
        raise MalformedMessage(f"an event's specversion is {SPEC}", starts=body[:80])
    if not (isinstance(id, str) and id and isinstance(source, str) and isinstance(type, str) and type):
        raise MalformedMessage("an event has an id, a source and a type, each a text", starts=body[:80])
    if source != (true := source_of(publisher)) and not source.startswith(true + "/"):
        raise MalformedMessage(f"an event of {publisher!r} has the source {true}, not {source[:80]}", starts=body[:80])
    time = get("time")
    if time is not None and not (isinstance(time, str) and _is_time(time)):
        raise MalformedMessage("an event's time is a time of RFC 3339", starts=body[:80])
    if len(attributes) == _MOSTLY and time is not None:
        return
    for name in _TEXTS:
        value = get(name)
        if value is not None and not (isinstance(value, str) and value):
            raise MalformedMessage(f"an event's {name} is a text", starts=body[:80])


def is_brokers(body: bytes, headers: Mapping[str, str] | None = None) -> bool:
    """Whether this is an answer of the broker's own, which somebody sent to the subject of an event."""
    if headers and is_binary(headers):
        return False
    try:
        return "specversion" not in _object(body)
    except MalformedMessage:
        return not body.strip()


def is_binary(headers: Mapping[str, str]) -> bool:
    """Whether an event with these headers is of the binary mode."""
    said = headers.get(CONTENT_TYPE)
    if said is STRUCTURED or said == STRUCTURED:
        return False
    lower = {key.lower(): value for key, value in headers.items()}
    return not lower.get(CONTENT_TYPE, "").lower().startswith("application/cloudevents") and BINARY + "specversion" in lower


def _read_binary(body: bytes, headers: Mapping[str, str]) -> tuple[dict[str, Any], Any]:
    attributes: dict[str, Any] = {}
    for key, value in headers.items():
        name = key.lower()
        if name.startswith(BINARY):
            attributes[name[len(BINARY) :]] = unquote(value)
        elif name == CONTENT_TYPE:
            attributes.setdefault("datacontenttype", value)
    if not body:
        return attributes, None
    kind = attributes.get("datacontenttype", "application/json").partition(";")[0].strip().lower()
    if kind == "application/json" or kind.endswith("+json"):
        return attributes, _json(body)
    if kind.startswith("text/"):
        return attributes, body.decode("utf-8", "replace")
    return attributes, body


def _object(body: bytes) -> dict[str, Any]:
    said = _json(body)
    if not isinstance(said, dict):
        raise MalformedMessage("an event is no JSON object", starts=body[:80])
    return said


def _json(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        pass  # a lone surrogate, or deeper than it goes: what we write ourselves may be both
    try:
        return json.loads(body)
    except (ValueError, RecursionError) as problem:
        raise MalformedMessage(f"an event is no JSON: {problem}", starts=body[:80]) from None


def _bytes(text: object, body: bytes) -> bytes:
    try:
        return base64.b64decode(text if isinstance(text, str) else "?", validate=True)
    except ValueError:
        raise MalformedMessage("an event's data_base64 is a text in base64", starts=body[:80]) from None


def _text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _is_time(text: str) -> bool:
    if not (text[4:20:3] in _MARKS and text[-1] == "Z"):  # as we write it ourselves; what else there is takes longer
        if not _time(text):
            return False
        text = text.upper()
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True
