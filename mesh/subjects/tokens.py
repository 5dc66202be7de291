"""Tokens: what a subject is made of, and what stands for names, methods and topics there.

A token is made of `[A-Za-z0-9_-]`. Any other character is written `_x{HEX}_`, its code point in upper-case hexadecimal, and an
underscore that a literal `x` follows is escaped too, so that `_x` begins nothing but an escape: `unescape(escape(s)) == s` for any
string, lone surrogates included. The empty string is `_x_`. A name too long for a subject (`LONGEST_NAME`) becomes `_x_` and its
SHA-256: the subject then names the thing by digest, and the body, which is authoritative, by itself.

`{method…}` is the method with `/` as `.`. Only the methods of `NAME_KEYS` carry a name, always as the last token.
A vendor method that continues one of those (`tools/call/x`) keeps that slash escaped, so it cannot be read as a tool named `x`.

`{topic…}` is the topic of an event as people write it (`agent.health`), each word between its dots a token.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from mesh.errors import ConfigError, Refused, TooLarge

VERSION: Final = "v1"
ANY: Final = "any"
"""In the instance's place: any instance of the target, one of its queue group."""

CONTROL_PLANE: Final = "mesh"
"""The control plane is an agent too, and this is its name. Nobody else may take it."""

OPERATOR: Final = "operator"
"""Who looks after a mesh from its command line."""

GATEWAY: Final = "gateway"
"""The HTTP front, when it acts for itself."""

NAME_KEYS: Final = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "resources/subscribe": "uri",
    "resources/unsubscribe": "uri",
    "streams/open": "type",
}
"""Methods whose request names one thing, and the member of `params` that names it. It becomes a token of the subject."""

OPEN_STREAM: Final = "streams/open"
"""Opens a stream between two agents; it names the stream's type, so that a permission on the subject is one on the type."""

ANSWER: Final = "mesh/answer"
"""Stands in the method's place when a host answers a server's request: a response has no method."""

PRIORITIES: Final = ("critical", "high", "normal", "low")
"""Of messages and events, the most urgent first."""

LONGEST_NAME: Final = 1024
"""Characters of an escaped name. The broker takes 4,096 a line, for subject and reply subject together."""
LONGEST_METHOD: Final = 256
"""Characters of an escaped method. MCP's longest has 34; a longer one than this is refused."""

is_token: Final = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_special: Final = re.compile(r"[^A-Za-z0-9_-]|_(?=x)")
_escape: Final = re.compile(r"_x([0-9A-F]+)_")


@lru_cache(maxsize=4096)
def escape(text: str) -> str:
    """`text` as one token. Reversible for every string."""
    if not text:
        return "_x_"
    if is_token(text) and "_x" not in text:
        return text
    return _special.sub(lambda match: f"_x{ord(match.group()):X}_", text)


def unescape(token: str) -> str:
    """The string that `escape` made `token` from. Raises Refused for what it never makes."""
    text = "" if token == "_x_" else _escape.sub(_character, token)
    if escape(text) != token:
        raise Refused("a subject token that no name is written as", token=token)
    return text


@dataclass(frozen=True, slots=True)
class Token:
    """One token of a permission that stands there as it is: a wildcard, or a template that the broker fills in. Every other text is a name
    and is escaped. It is no string, so no name can be taken for it, and it for no name."""

    text: str

    def __str__(self) -> str:
        return self.text


EACH: Final = Token("*")
ME: Final = Token("{{name()}}")
"""The name in the user's JWT, which is written escaped."""
MEMBER: Final = Token("{{tag(role)}}")
"""Each name that the user may answer to: its tags `role:NAME`, which are written escaped. A user without one has no such entry."""


def key_of(agent: str, instance: str) -> str:
    """The key of an instance in the buckets `registry` and `health`: the owner is a token, so that rights can be cut along it."""
    return f"{escape(agent)}.{escape(instance)}"


def client_name(agent: str, connection: str) -> str:
    """The name that a connection gives itself at the broker: the first two tokens of the ids of its exchanges."""
    return f"{escape(agent)}.{escape(connection)}"


def read_client_name(name: str) -> tuple[str, str] | None:
    """Agent and connection; None for a name that no connection of the mesh has."""
    tokens = name.split(".")
    try:
        return (unescape(tokens[0]), unescape(tokens[1])) if len(tokens) == 2 else None
    except Refused:
        return None


def _character(match: re.Match[str]) -> str:
    code = int(match.group(1), 16)
    return chr(code) if code <= 0x10FFFF else ""


@lru_cache(maxsize=4096)
def tail(method: str, name: str | None) -> str:
    """`{method…}[.{name}]`: what a subject says of a message. Raises TooLarge for a method that is longer than any real one."""
    parts = method.split("/")
    for named in NAME_KEYS:
        if method.startswith(named + "/"):
            known = named.split("/")
            parts = [*known[:-1], "/".join(parts[len(known) - 1 :])]
            break
    text = ".".join(map(escape, parts))
    if len(text) > LONGEST_METHOD:
        raise TooLarge("the method's name is too long for a subject", limit=LONGEST_METHOD)
    if method not in NAME_KEYS:
        return text
    token = escape(name or "")
    if len(token) > LONGEST_NAME:
        token = "_x_" + hashlib.sha256((name or "").encode("utf-8", "surrogatepass")).hexdigest()
    return f"{text}.{token}"


def read_tail(tokens: list[str]) -> tuple[str, str | None]:
    """Method and name from a subject's last tokens. The name is None where the method has none, and `#` with the digest where it was too
    long. Raises Refused for tokens that `tail` never makes: one message has one subject."""
    for named in NAME_KEYS:
        known = named.split("/")
        if tokens[:-1] == known:
            last = tokens[-1]
            if len(last) > LONGEST_NAME:
                raise Refused("a subject that spells out a name which is told by its digest", method=named)
            return named, "#" + last[3:] if last.startswith("_x_") and len(last) > 3 else unescape(last)
    method = "/".join(map(unescape, tokens))
    if tail(method, None) != ".".join(tokens):
        raise Refused("a subject whose method is not written as it should be", method=method)
    return method, None


LONGEST_TOPIC: Final = 512
"""Characters of an escaped topic."""


@lru_cache(maxsize=4096)
def topic_tokens(topic: str) -> str:
    """A topic as tokens. Raises TooLarge."""
    text = ".".join(map(escape, topic.split(".")))
    if len(text) > LONGEST_TOPIC:
        raise TooLarge("the topic is too long for a subject", limit=LONGEST_TOPIC)
    return text


def read_topic(tokens: list[str]) -> str:
    """The topic that `topic_tokens` made. Raises Refused for what it never makes."""
    topic = ".".join(map(unescape, tokens))
    if len(topic) > LONGEST_TOPIC or topic_tokens(topic) != ".".join(tokens):
        raise Refused("a subject whose topic is not written as it should be", topic=topic[:80])
    return topic


@lru_cache(maxsize=4096)
def topic_pattern(pattern: str) -> str:
    """Which topics: `*` in the place of a word is any word, `>` at the end one or more. Raises ConfigError, TooLarge."""
    words = pattern.split(".")
    if not pattern or "" in words or ">" in words[:-1]:
        raise ConfigError(
            f"{pattern!r} names no topics", hint="write words with dots between them, as in build.done; * is any word, > the rest of them"
        )
    text = ".".join(word if word in ("*", ">") else escape(word) for word in words)
    if len(text) > LONGEST_TOPIC:
        raise TooLarge("the topic is too long for a subject", limit=LONGEST_TOPIC)
    return text
