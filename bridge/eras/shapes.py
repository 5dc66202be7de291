"""One message of an era as the other one says it. Bodies are not written anew: members are added to and cut from their bytes."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from bridge.eras.edit import Part, add, add_meta, cut, find, find_result, find_text, parts
from bridge.eras.words import (
    CACHEABLE,
    CAPABILITY_OF,
    ENVELOPE,
    HANDSHAKE,
    HANDSHAKES,
    LEVELS,
    LOG_LEVEL,
    MISSING_CAPABILITY,
    QUESTIONS,
    SERVER_INFO,
    SUBSCRIPTION_ID,
)
from mesh.rpc import CLIENT_CAPABILITIES, CLIENT_INFO, MODERN, PROTOCOL_VERSION
from mesh.wire.jsonrpc import Frame, dumps

INPUT_REQUIRED: Final = b'"input_required"'
"""The `resultType` of a result that asks."""

_ANSWERS: Final = frozenset({"inputResponses", "requestState"})


# ---- a modern client, a handshake server


@dataclass(frozen=True, slots=True)
class Wish:
    """What the envelope of a modern request says of its client: two clients with the same wish may use one child, one after the other."""

    capabilities: bytes = b"{}"
    info: bytes = b""
    level: str = ""

    @property
    def asks(self) -> frozenset[str]:
        """The methods that the server may ask this client with."""
        try:
            said = json.loads(self.capabilities)
        except (ValueError, RecursionError):
            return frozenset()
        return frozenset(method for method, name in QUESTIONS.items() if isinstance(said.get(name), dict))


def read_wish(frame: Frame) -> Wish:
    """The envelope of a request. What is no JSON object there counts as nothing."""
    raw = frame.raw
    span = find(raw, "params", "_meta")
    found = {part.key: part for part in parts(raw, span[0])} if span is not None else {}

    def text(key: str) -> bytes:
        part = found.get(key)
        return raw[part.start : part.end] if part is not None and raw[part.start : part.start + 1] == b"{" else b""

    level = find_text(raw, "params", "_meta", LOG_LEVEL) or ""
    return Wish(text(CLIENT_CAPABILITIES) or b"{}", text(CLIENT_INFO), level if level in LEVELS else "")


def to_handshake(frame: Frame) -> bytes:
    """A modern request without its envelope."""
    raw = frame.raw
    if any(key.encode() in raw for key in _ANSWERS) and (span := find(raw, "params")) is not None:
        raw = cut(raw, span[0], _ANSWERS)
    span = find(raw, "params", "_meta")
    return cut(raw, span[0], ENVELOPE) if span is not None else raw


def complete(method: str, frame: Frame, raw: bytes | None = None) -> bytes:
    """A handshake server's result with what the modern era wants in each: `resultType`, and where it may be kept `ttlMs` and `cacheScope`.

    Zero and private: a server that says nothing of caching has allowed none. `raw`: the frame with its id changed. Errors pass.
    """
    raw = frame.raw if raw is None else raw
    start = find_result(raw)
    if start is None:
        return raw
    wanted = {"resultType": b'"complete"'}
    if method in CACHEABLE:
        wanted |= {"ttlMs": b"0", "cacheScope": b'"private"'}
    if any(key.encode() in raw for key in wanted):
        has = {part.key for part in parts(raw, start)}
        wanted = {key: value for key, value in wanted.items() if key not in has}
    return add(raw, start, b",".join(b'"%s":%s' % (key.encode(), value) for key, value in wanted.items()))


def discovered(initialized: bytes) -> bytes:
    """The result of `server/discover`, out of that of `initialize`: its capabilities, instructions and server info as they are."""
    said = _texts(initialized, parts(initialized))
    version = json.loads(said.get("protocolVersion", b'""'))
    versions = [MODERN, *(each for each in HANDSHAKES if version in HANDSHAKES and each <= version)]
    members = [
        b'"resultType":"complete","ttlMs":0,"cacheScope":"private"',
        b'"supportedVersions":' + dumps(versions),
        b'"capabilities":' + cut(said.get("capabilities", b"{}"), 0, {"tasks"}),  # in the modern era these are an extension, and different
        *([b'"instructions":' + said["instructions"]] if "instructions" in said else []),
        *([b'"_meta":{"' + SERVER_INFO.encode() + b'":' + said["serverInfo"] + b"}"] if "serverInfo" in said else []),
    ]
    return b"{" + b",".join(members) + b"}"


def input_required(id: bytes, questions: Mapping[str, Frame], state: str) -> bytes:
    """The response that asks the client. `id` is the JSON text of the request's id."""
    asked = b",".join(dumps(key) + b":" + _bare(frame.raw) for key, frame in questions.items())
    requests = b'"inputRequests":{' + asked + b"}," if asked else b""
    return b"".join(
        (b'{"jsonrpc":"2.0","id":', id, b',"result":{"resultType":"input_required",', requests, b'"requestState":', dumps(state), b"}}")
    )


def read_answers(frame: Frame) -> dict[str, bytes]:
    """`inputResponses` of a retry: each key's value as it was written."""
    span = find(frame.raw, "params", "inputResponses")
    return _texts(frame.raw, parts(frame.raw, span[0])) if span is not None else {}


def response(id: bytes, result: bytes) -> bytes:
    return b"".join((b'{"jsonrpc":"2.0","id":', id, b',"result":', result, b"}"))


def is_logged(frame: Frame, least: str) -> bool:
    """Whether a log message is one that the client wants: at `least` that severe, and none where it named no level."""
    level = find_text(frame.raw, "params", "level")
    return bool(least) and level in LEVELS and LEVELS.index(level) >= LEVELS.index(least)


def lacking(method: str) -> tuple[int, str, Any]:
    """Code, message and data of the error for a client that has not declared what the server asks for with `method`."""
    capability = QUESTIONS[method]
    return MISSING_CAPABILITY, f"Missing required client capability: {capability}", {"requiredCapabilities": {capability: {}}}


class Filter(NamedTuple):
    """What a listen asks for: fields that are true, and URIs."""

    fields: frozenset[str]
    uris: tuple[str, ...]


def read_filter(frame: Frame) -> Filter | None:
    """`params.notifications` of a listen; None where it is no filter."""
    span = find(frame.raw, "params", "notifications")
    try:
        said: Any = json.loads(frame.raw[slice(*span)]) if span is not None else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(said, dict):
        return None
    uris = said.get("resourceSubscriptions") or []
    if not isinstance(uris, list) or not all(isinstance(uri, str) for uri in uris):
        return None
    return Filter(frozenset(name for name in CAPABILITY_OF if said.get(name) is True), tuple(dict.fromkeys(uris)))


def acknowledged(id: str, fields: Iterable[str], uris: Iterable[str]) -> bytes:
    """The first frame of a listen: what of it is honoured."""
    honoured: dict[str, Any] = dict.fromkeys(sorted(fields), True)
    if of := list(uris):
        honoured["resourceSubscriptions"] = of
    return dumps(
        {
            "jsonrpc": "2.0",
            "method": "notifications/subscriptions/acknowledged",
            "params": {"_meta": {SUBSCRIPTION_ID: id}, "notifications": honoured},
        }
    )


def stamped(raw: bytes, id: str) -> bytes:
    """A notification as a frame of the listen `id`."""
    return add_meta(raw, dumps({SUBSCRIPTION_ID: id})[1:-1])


# ---- a handshake host, a modern server


@dataclass(frozen=True, slots=True)
class Envelope:
    """What each request to a modern server carries for its host, taken from the host's `initialize`."""

    capabilities: bytes
    info: bytes

    def members(self, level: str) -> bytes:
        said = [f'"{PROTOCOL_VERSION}":"{MODERN}","{CLIENT_CAPABILITIES}":'.encode() + self.capabilities]
        if self.info:
            said.append(f'"{CLIENT_INFO}":'.encode() + self.info)
        if level:
            said.append(f'"{LOG_LEVEL}":"{level}"'.encode())
        return b",".join(said)


def read_envelope(initialize: Frame) -> Envelope:
    raw = initialize.raw
    span = find(raw, "params")
    said = _texts(raw, parts(raw, span[0])) if span is not None else {}
    return Envelope(said.get("capabilities", b"{}"), said.get("clientInfo", b""))


def to_modern(raw: bytes, envelope: bytes) -> bytes:
    """A handshake request with the envelope in its `_meta`."""
    return add_meta(raw, envelope)


def retry(frame: Frame, id: bytes, envelope: bytes, answers: Mapping[str, bytes], state: bytes | None) -> bytes:
    """The host's request again: new id and token, the host's answers, and the state that the server gave (its JSON text)."""
    raw = add_meta(frame.splice([(frame.id_span, id), (frame.token_span, id)]), envelope)
    members = [b'"requestState":' + state] if state is not None else []
    if answers:
        members.append(b'"inputResponses":{' + b",".join(dumps(key) + b":" + value for key, value in answers.items()) + b"}")
    span = find(raw, "params")
    assert span is not None
    return add(raw, span[0], b",".join(members))


class Required(NamedTuple):
    """An `input_required` result: the questions by the server's keys, as `"method":…,"params":…`, and the state's JSON text."""

    questions: dict[str, bytes]
    state: bytes | None


def read_required(frame: Frame) -> Required | None:
    """None for a result of another type."""
    raw = frame.raw
    if INPUT_REQUIRED not in raw or (start := find_result(raw)) is None:
        return None
    found = {part.key: part for part in parts(raw, start)}
    kind = found.get("resultType")
    if kind is None or raw[kind.start : kind.end] != INPUT_REQUIRED:
        return None
    asked = found.get("inputRequests")
    questions = {part.key: _inside(raw, part) for part in parts(raw, asked.start)} if asked is not None else {}
    state = found.get("requestState")
    return Required(questions, raw[state.start : state.end] if state is not None and raw[state.start : state.start + 1] == b'"' else None)


def question(id: str, inside: bytes) -> bytes:
    """A request to the host."""
    return b"".join((b'{"jsonrpc":"2.0","id":', dumps(id), b",", inside, b"}"))


def result_of(frame: Frame) -> bytes | None:
    """The result of a response, as it was written; None for an error."""
    span = find(frame.raw, "result")
    return frame.raw[slice(*span)] if span is not None else None


def initialized(discovered: bytes, asked: str | None, agent: str) -> bytes:
    """The result of `initialize`, out of that of `server/discover`. `asked` is the revision that the host wants."""
    said = _texts(discovered, parts(discovered))
    info = find(discovered, "_meta", SERVER_INFO)
    members = [
        b'"protocolVersion":' + dumps(asked if asked in HANDSHAKES else HANDSHAKE),
        b'"capabilities":' + said.get("capabilities", b"{}"),
        b'"serverInfo":' + (discovered[slice(*info)] if info is not None else dumps({"name": agent, "version": "0"})),
        *([b'"instructions":' + said["instructions"]] if "instructions" in said else []),
    ]
    return b"{" + b",".join(members) + b"}"


def _texts(raw: bytes, found: Iterable[Part]) -> dict[str, bytes]:
    """Values as they were written, by key; null counts as nothing."""
    return {part.key: raw[part.start : part.end] for part in found if raw[part.start : part.end] != b"null"}


def _inside(raw: bytes, part: Part) -> bytes:
    """The members of an object, without its braces."""
    return raw[part.start : part.end].strip()[1:-1]


def _bare(raw: bytes) -> bytes:
    """A request as it stands in `inputRequests`: its method and params."""
    return (
        b"{"
        + b",".join(b'"%s":%s' % (part.key.encode(), raw[part.start : part.end]) for part in parts(raw) if part.key in ("method", "params"))
        + b"}"
    )
