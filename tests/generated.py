"""Generated exchanges: what a host says, what a server says to it, and what both answer, each made again from its seed by whoever needs it.

Texts are written, not dumped: 30-digit integers, `1E400`, keys that stand twice, lone surrogates, escapes where none is needed, deep
nesting and odd white space are in them. A `Text` has holes where the mesh may put something else (an id, a progress token), so that a
server can say of any line whether every other byte is as it was written. Carriage returns are left out: `bridge.lines.as_line` says why.
"""

import json
import random
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

HANDSHAKE: Final = "h"
MODERN: Final = "m"


class Hole(Enum):
    """What is filled in when a text is sent."""

    ID = "<id>"
    TOKEN = "<token>"
    ECHO = "<echo>"


@dataclass(frozen=True)
class Text:
    """One message."""

    pieces: tuple[bytes | Hole, ...]

    def fill(self, **values: bytes) -> bytes:
        return b"".join(values[piece.name.lower()] if isinstance(piece, Hole) else piece for piece in self.pieces)

    def match(self, line: bytes) -> dict[str, bytes] | None:
        """What the holes hold in `line`, which else is this text; None where it is not. Each hole stands once."""
        pattern = b"".join(
            b"(?P<%s>.+?)" % piece.name.lower().encode() if isinstance(piece, Hole) else re.escape(piece) for piece in self.pieces
        )
        found = re.fullmatch(pattern, line, re.DOTALL)
        return found.groupdict() if found is not None else None

    @property
    def blank(self) -> bytes:
        return self.fill(id=b"<id>", token=b"<token>", echo=b"<echo>")


@dataclass(frozen=True)
class Ask:
    """A request of the server's in the middle of a call."""

    text: bytes
    answer: bytes


@dataclass(frozen=True)
class Exchange:
    """A request, what the server says before its response, and the response (None: it waits for its cancellation)."""

    key: str
    id: bytes
    token: bytes | None
    request: Text
    script: tuple[Text | Ask, ...]
    final: Text | None
    cancelled: Text
    """The cancellation, for an exchange that has no response."""


METHODS: Final = (
    ("tools/call", "name"), ("tools/call", "name"), ("prompts/get", "name"), ("resources/read", "uri"), ("tools/list", ""),
    ("prompts/list", ""),
    ("resources/list", ""), ("resources/templates/list", ""), ("completion/complete", ""), ("vendor/method", ""), ("tools/call/x", ""),
    ("Ünknown ☃.*>", ""), ("x", ""),
)  # fmt: skip
OF_HANDSHAKE: Final = (("ping", ""), ("logging/setLevel", ""), ("resources/subscribe", "uri"), ("resources/unsubscribe", "uri"))
FROM_CLIENT: Final = ("notifications/roots/list_changed", "notifications/progress", "notifications/vendor/thing", "notifications/ü", "odd")
FROM_SERVER: Final = (
    "notifications/message", "notifications/tools/list_changed", "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated", "notifications/elicitation/complete", "notifications/cancelled", "notifications/vendor/thing", "odd",
)  # fmt: skip
ASKED: Final = ("ping", "roots/list", "sampling/createMessage", "elicitation/create", "vendor/ask")
LETTERS: Final = 'abcxyz019 _-/.{}[]:,"\\\n\t\x00\x7fäß☃\U0001f600'
KEYS: Final = ("a", "b", "name", "id", "method", "params", "result", "_meta", "progressToken", "ключ", "", "x y", "jsonrpc", "requestState")
PIECES: Final = ("\\ud800", "\\udfff\\ud800", "\\u0041", "\\/", "\\u00e4", "\\ud83d\\ude00", "\\u0000")
NUMBERS: Final = (
    "123456789012345678901234567890", "-0", "-0.0", "1E400", "1e-400", "0.1000", "9007199254740993", "1e+5", "0", "-7",
    "3.14159265358979323846264338",
)  # fmt: skip


class Writer:
    """Writes JSON texts as `rng` has it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.spacious = rng.random() < 0.3

    def space(self) -> bytes:
        return self.rng.choice((b"", b"", b" ", b"\t", b"  \t ")) if self.spacious else b""

    def string(self, said: str | None = None) -> bytes:
        """`said` in some spelling, or any string."""
        rng = self.rng
        chars = said if said is not None else "".join(rng.choice(LETTERS) for _ in range(rng.randrange(10)))
        made = "".join(json.dumps(char)[1:-1] if char < " " or char in '"\\' or rng.random() < 0.05 else char for char in chars)
        if said is None and rng.random() < 0.3:
            made += rng.choice(PIECES)
        elif said is not None:
            made = made.replace("/", "\\/") if rng.random() < 0.1 else made
        return b'"' + made.encode() + b'"'

    def value(self, depth: int = 0) -> bytes:
        rng = self.rng
        kind = rng.randrange(8 if depth < 4 else 5)
        if kind < 3:
            return rng.choice((b"null", b"true", b"false")) if kind == 0 else self.string()
        if kind < 5:
            return rng.choice(NUMBERS).encode()
        if kind == 5:
            return b"[" + b",".join(self.space() + self.value(depth + 1) + self.space() for _ in range(rng.randrange(4))) + b"]"
        if kind == 6 and rng.random() < 0.02:
            deep = rng.choice((100, 1500, 5000))
            return b'{"":[' * deep + b"null" + b"]}" * deep
        return self.object([(rng.choice(KEYS), self.value(depth + 1)) for _ in range(rng.randrange(4))]).pieces[0]  # type: ignore[return-value]

    def object(self, members: list[tuple[str, "bytes | Hole | Text"]], *, plain: bool = False) -> Text:
        """In this order; neighbours without a hole are one piece."""
        parts: list[bytes | Hole] = [b"{" + self.space()]
        for at, (key, value) in enumerate(members):
            name = b'"' + key.encode() + b'"' if plain or key.startswith("x-") else self.string(key)
            parts += [b"," + self.space() if at else b"", name, b":" if key.startswith("x-") else self.space() + b":" + self.space()]
            parts += value.pieces if isinstance(value, Text) else [value]
            parts.append(self.space())
        joined: list[bytes | Hole] = []
        for part in [*parts, b"}"]:
            if isinstance(part, bytes) and joined and isinstance(joined[-1], bytes):
                joined[-1] += part
            else:
                joined.append(part)
        return Text(tuple(joined))

    def unknown(self, most: int = 3) -> list[tuple[str, "bytes | Hole | Text"]]:
        """Members that nobody knows; some stand twice."""
        found: list[tuple[str, bytes | Hole | Text]] = [
            (f"u{self.rng.randrange(4)}", self.value()) for _ in range(self.rng.randrange(most + 1))
        ]
        return found

    def shuffled(self, *members: tuple[str, "bytes | Hole | Text"]) -> Text:
        found = [*members, *self.unknown()]
        self.rng.shuffle(found)
        return self.object(found)

    def message(self, *members: tuple[str, "bytes | Hole | Text"]) -> Text:
        """A message; sometimes with white space around it."""
        made = self.shuffled(("jsonrpc", b'"2.0"'), *members)
        return Text((self.space(), *made.pieces, self.space() if self.spacious else b""))

    def identifier(self, number: int) -> bytes:
        made = (
            str(number), f'"{number}"', f"-{number}", str(10**28 + number), f'"\\u0073{number}"', f'"\\ud800{number}"', f'"ü ☃ {number}"',
            f'"a\\/b.{number}"', f'"h.1.{number}"',
        )  # fmt: skip
        return self.rng.choice(made).encode()


def exchange(key: str) -> Exchange:
    """`key`: the era's letter and a number; `…!` waits for its cancellation, `…+` is larger than one message of the broker."""
    era, number = key[0], int(key[1:].rstrip("!+"))
    rng = random.Random(f"exchange {key}")
    write = Writer(rng)
    id = write.identifier(number)
    holds = key.endswith("!")
    token = rng.choice((id, write.identifier(rng.randrange(3)))) if rng.random() < 0.6 or (holds and era == MODERN) else None
    method, named = rng.choice(METHODS if era == MODERN else METHODS + OF_HANDSHAKE)
    listens = era == MODERN and not holds and rng.random() < 0.1
    if listens:
        method, named = "subscriptions/listen", ""
    request = _request(write, key, method, named, token is not None)
    script: list[Text | Ask] = []
    if holds:
        held = ("x-held", b'"' + key.encode() + b'"')
        params = write.shuffled(("progressToken", Hole.TOKEN), ("progress", b"1"), held) if token else write.shuffled(held)
        script.append(write.message(("method", write.string("notifications/progress" if token else "vendor/held")), ("params", params)))
        final = None
    else:
        script += [_said(write, rng, f"{key}.{at}", era, token is not None, listens) for at in range(rng.choice((0, 0, 1, 2, 6)))]
        final = _response(write, rng, key, listens)
    cancelled: list[tuple[str, bytes | Hole | Text]] = [
        ("requestId", Hole.ID),
        *([("reason", write.string())] if rng.random() < 0.8 else []),
    ]
    says = ("x-cancels", b'"' + key.encode() + b'"')
    ends = write.message(("method", b'"notifications/cancelled"'), says, ("params", write.shuffled(*cancelled)))
    return Exchange(key, id, token, request, tuple(script), final, ends)


def notification(key: str) -> bytes:
    """What a host says to no request."""
    rng = random.Random(f"notification {key}")
    write = Writer(rng)
    method = rng.choice(FROM_CLIENT)
    params = [("params", write.shuffled(*([("progressToken", write.identifier(1))] if method.endswith("progress") else [])))]
    return write.message(
        ("method", write.string(method)), ("x-note", b'"' + key.encode() + b'"'), *(params if rng.random() < 0.8 else [])
    ).fill()


def _request(write: Writer, key: str, method: str, named: str, progress: bool) -> Text:
    rng = write.rng
    meta: list[tuple[str, bytes | Hole | Text]] = [("progressToken", Hole.TOKEN)] if progress else []
    if key[0] == MODERN:
        meta += [
            ("io.modelcontextprotocol/protocolVersion", b'"2026-07-28"'),
            ("io.modelcontextprotocol/clientCapabilities", write.value()),
            ("io.modelcontextprotocol/clientInfo", write.value()),
        ]
    params: list[tuple[str, bytes | Hole | Text]] = [(named, write.string())] if named else []
    params += [("_meta", write.shuffled(*meta))] if meta or rng.random() < 0.3 else []
    params += [("arguments", write.value())] if rng.random() < 0.7 else []
    if key.endswith("+"):
        params.append(("large", b'"' + b"x\xc3\xa4" * 500_000 + b'"'))
    top: list[tuple[str, bytes | Hole | Text]] = [("id", Hole.ID), ("method", write.string(method)), ("x-seed", b'"' + key.encode() + b'"')]
    return write.message(*top, *([("params", write.shuffled(*params))] if params or rng.random() < 0.5 else []))


def _said(write: Writer, rng: random.Random, key: str, era: str, progress: bool, listens: bool) -> Text | Ask:
    """One message of the server's before its response. In the modern era only what names its request: nothing else belongs to one."""
    if listens:
        meta = write.shuffled(("io.modelcontextprotocol/subscriptionId", Hole.ID))
        method = rng.choice(("notifications/subscriptions/acknowledged", *FROM_SERVER[1:5], "vendor/change"))
        return write.message(("method", write.string(method)), ("params", write.shuffled(("_meta", meta))))
    if progress and (era == MODERN or rng.random() < 0.5):
        said = write.shuffled(("progressToken", Hole.TOKEN), ("progress", rng.choice(NUMBERS).encode()))
        return write.message(("method", write.string("notifications/progress")), ("params", said))
    if era == HANDSHAKE and rng.random() < 0.4:
        id = write.identifier(rng.randrange(20))
        asked = [("method", write.string(rng.choice(ASKED))), ("id", id), ("x-ask", b'"' + key.encode() + b'"')]
        text = write.message(*asked, *([("params", write.shuffled())] if rng.random() < 0.8 else [])).fill()
        body = ("result", write.value()) if rng.random() < 0.8 else ("error", _error(write, []))
        return Ask(text, write.message(("id", id), body, ("x-answer", b'"' + key.encode() + b'"')).fill())
    if era == HANDSHAKE:
        return write.message(
            ("method", write.string(rng.choice(FROM_SERVER))), *([("params", write.shuffled())] if rng.random() < 0.8 else [])
        )
    return Text(())


def _response(write: Writer, rng: random.Random, key: str, listens: bool) -> Text:
    echo: list[tuple[str, bytes | Hole | Text]] = [("x-echo", Hole.ECHO)]
    final: tuple[str, bytes | Hole | Text] = ("x-final", b'"' + key.encode() + b'"')
    if not listens and rng.random() < 0.25:
        return write.message(("id", Hole.ID), final, ("error", _error(write, echo)))
    if not listens:
        echo += [("resultType", b'"complete"'), ("isError", b"null")] if rng.random() < 0.7 else []
        echo += [("_meta", write.shuffled())] if rng.random() < 0.5 else []
    if rng.random() < 0.3:  # as the SDKs write it
        return Text((b'{"jsonrpc":"2.0","id":', Hole.ID, b',"result":', *write.shuffled(*echo).pieces, b',"x-final":"%s"}' % key.encode()))
    return write.message(("id", Hole.ID), final, ("result", write.shuffled(*echo)))


def _error(write: Writer, more: list[tuple[str, "bytes | Hole | Text"]]) -> Text:
    code = write.rng.choice((b"-32602", b"-32070", b"123", b"-1"))
    return write.shuffled(("code", code), ("message", write.string()), ("data", write.shuffled(*more)))
