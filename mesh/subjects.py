"""Every subject of the mesh: built, parsed and filtered here, and nowhere else is a subject text.

`{prefix}.v1.{family}.{…}`. The sender is always a token, so that the broker can hold an agent to its own name.

| family   | after the family                                       | carries                                             |
|----------|--------------------------------------------------------|-----------------------------------------------------|
| call     | {target}.{instance}.{caller}.{method…}[.{name}]        | one JSON-RPC request, journaled                     |
| quiet    | the same                                               | the same, not journaled                             |
| probe    | {target}.{instance}.{caller}                           | "is anyone there?", not journaled                   |
| note     | {target}.{caller}.{method…}                            | a notification to every instance, journaled         |
| reply    | {caller}.{target}.{connection}.{exchange}              | the frames of one exchange, to the caller's connection |
| hush     | the same                                               | the frames of a quiet exchange, not journaled       |
| part     | {to}.{end}.{from}.{caller}.{connection}.{exchange}     | chunks of a large body, and the credits for them    |
| record   | {target}.{caller}                                      | a journal record without bodies                     |
| msg      | {target}.{sender}.{priority}                           | a durable message, stored in its priority's stream  |
| dead     | {target}.{stream}.{number}                             | a message that is not tried again                   |
| health   | {agent}.{instance}                                     | the broker's copy of the health bucket, live        |
| registry | {agent}.{instance}                                     | the broker's copy of the registry bucket, live      |
| gone     | {agent}.{connection}                                   | the control plane's word that a caller is gone      |
| broker   | disconnect                                             | the broker's own disconnect events                  |

Escape
------
A token is made of `[A-Za-z0-9_-]`. Any other character is written `_x{HEX}_`, its code point in upper-case hexadecimal, and an
underscore that a literal `x` follows is escaped too, so that `_x` begins nothing but an escape: `unescape(escape(s)) == s` for any
string, lone surrogates included. The empty string is `_x_`. A name too long for a subject (`LONGEST_NAME`) becomes `_x_` and its
SHA-256: the subject then names the thing by digest, and the body, which is authoritative, by itself.

`{method…}` is the method with `/` as `.`. Only the methods of `NAME_KEYS` carry a name, always as the last token.
A vendor method that continues one of those (`tools/call/x`) keeps that slash escaped, so it cannot be read as a tool named `x`.

This module is long because every family has its builder, its parser and its filter here, and nowhere else.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Final

from mesh.errors import Refused, TooLarge

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
}
"""Methods whose request names one thing, and the member of `params` that names it. It becomes a token of the subject."""

ANSWER: Final = "mesh/answer"
"""Stands in the method's place when a host answers a server's request: a response has no method."""

PRIORITIES: Final = ("critical", "high", "normal", "low")
"""Of messages, the most urgent first. The last token of a message's subject."""

LONGEST_NAME: Final = 1024
"""Characters of an escaped name. The broker takes 4,096 a line, for subject and reply subject together."""
LONGEST_METHOD: Final = 256
"""Characters of an escaped method. MCP's longest has 34; a longer one than this is refused."""

_plain: Final = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_special: Final = re.compile(r"[^A-Za-z0-9_-]|_(?=x)")
_escape: Final = re.compile(r"_x([0-9A-F]+)_")


@lru_cache(maxsize=4096)
def escape(text: str) -> str:
    """`text` as one token. Reversible for every string."""
    if not text:
        return "_x_"
    if _plain(text) and "_x" not in text:
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


@dataclass(frozen=True, slots=True)
class Call:
    """A call, or a quiet call, or a notification or answer to one instance. `exchange` is None: it is in the reply subject."""

    target: str
    instance: str
    caller: str
    method: str
    name: str | None = None
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    target: str
    instance: str
    caller: str


@dataclass(frozen=True, slots=True)
class Note:
    target: str
    caller: str
    method: str


@dataclass(frozen=True, slots=True)
class Reply:
    caller: str
    target: str
    connection: str
    exchange: str
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class FoldedReply:
    """A reply as the journal stores it: connection and exchange are in the body."""

    caller: str
    target: str


@dataclass(frozen=True, slots=True)
class Part:
    """`end` is the instance or connection of `to`; caller, connection and exchange name the exchange."""

    to: str
    end: str
    sender: str
    caller: str
    connection: str
    exchange: str


@dataclass(frozen=True, slots=True)
class Record:
    target: str
    caller: str


@dataclass(frozen=True, slots=True)
class Msg:
    """A durable message. The sender is the one whom the broker held to its name."""

    target: str
    sender: str
    priority: str


@dataclass(frozen=True, slots=True)
class Dead:
    """A message to `target` that is not tried again. `number` names one message of `stream`: its sequence and the time of its storing, in
    nanoseconds (`7-1700000000000000000`). A sequence alone can be guessed, and comes again in a stream that was made anew."""

    target: str
    stream: str
    number: str


@dataclass(frozen=True, slots=True)
class Health:
    agent: str
    instance: str


@dataclass(frozen=True, slots=True)
class Registry:
    agent: str
    instance: str


@dataclass(frozen=True, slots=True)
class Gone:
    agent: str
    connection: str


Subject = Call | Probe | Note | Reply | FoldedReply | Part | Record | Msg | Dead | Health | Registry | Gone


class Subjects:
    """The grammar under one prefix. Builders take names as people write them; filters take None for "any"."""

    def __init__(self, prefix: str = "mesh") -> None:
        if not _plain(prefix):
            raise ValueError(f"a prefix is one token of [A-Za-z0-9_-], not {prefix!r}")
        self.prefix = prefix
        self.root = f"{prefix}.{VERSION}."
        self._parsers: dict[str, Callable[[list[str]], Subject | None]] = {
            "call": _read_call,
            "quiet": partial(_read_call, quiet=True),
            "probe": lambda t: Probe(*map(unescape, t)) if len(t) == 3 else None,
            "note": lambda t: Note(unescape(t[0]), unescape(t[1]), read_tail(t[2:])[0]) if len(t) > 2 else None,
            "reply": _read_reply,
            "hush": _read_hush,
            "part": lambda t: Part(*map(unescape, t)) if len(t) == 6 else None,
            "record": lambda t: Record(*map(unescape, t)) if len(t) == 2 else None,
            "msg": lambda t: Msg(unescape(t[0]), unescape(t[1]), t[2]) if len(t) == 3 and t[2] in PRIORITIES else None,
            "dead": lambda t: Dead(*map(unescape, t)) if len(t) == 3 else None,
            "health": lambda t: Health(*map(unescape, t)) if len(t) == 2 else None,
            "registry": lambda t: Registry(*map(unescape, t)) if len(t) == 2 else None,
            "gone": lambda t: Gone(*map(unescape, t)) if len(t) == 2 else None,
        }

    def build(self, subject: Subject) -> str:
        match subject:
            case Call(target, instance, caller, method, name, quiet):
                return self.call(target, instance, caller, method, name, quiet=quiet)
            case Probe(target, instance, caller):
                return self.probe(target, instance, caller)
            case Note(target, caller, method):
                return self.note(target, caller, method)
            case Reply(caller, target, connection, exchange, quiet):
                return f"{self.reply_prefix(caller, target, connection, quiet=quiet)}{escape(exchange)}"
            case FoldedReply(caller, target):
                return f"{self.root}reply.{escape(caller)}.{escape(target)}"
            case Part(to, end, sender, caller, connection, exchange):
                return self.part(to, end, sender, ".".join(map(escape, (caller, connection, exchange))))
            case Record(target, caller):
                return f"{self.root}record.{escape(target)}.{escape(caller)}"
            case Msg(target, sender, priority):
                return self.message(target, sender, priority)
            case Dead(target, stream, number):
                return self.dead(target, stream, number)
            case Health(agent, instance):
                return f"{self.root}health.{escape(agent)}.{escape(instance)}"
            case Registry(agent, instance):
                return f"{self.root}registry.{escape(agent)}.{escape(instance)}"
            case Gone(agent, connection):
                return f"{self.root}gone.{escape(agent)}.{escape(connection)}"

    def parse(self, text: str) -> Subject:
        """The subject that `text` is. Raises Refused for a text that `build` never makes."""
        if not text.startswith(self.root):
            raise Refused("a subject outside the mesh", subject=text)
        family, *tokens = text[len(self.root) :].split(".")
        parser = self._parsers.get(family)
        subject = parser(tokens) if parser else None
        if subject is None:
            raise Refused("a subject of no family", subject=text)
        return subject

    def call(self, target: str, instance: str, caller: str, method: str, name: str | None = None, *, quiet: bool = False) -> str:
        family = "quiet" if quiet else "call"
        return f"{self.root}{family}.{escape(target)}.{escape(instance)}.{escape(caller)}.{tail(method, name)}"

    def probe(self, target: str, instance: str, caller: str) -> str:
        return f"{self.root}probe.{escape(target)}.{escape(instance)}.{escape(caller)}"

    def note(self, target: str, caller: str, method: str) -> str:
        return f"{self.root}note.{escape(target)}.{escape(caller)}.{tail(method, None)}"

    def reply_prefix(self, caller: str, target: str, connection: str, *, quiet: bool = False) -> str:
        """The exchange's token follows."""
        return f"{self.root}{'hush' if quiet else 'reply'}.{escape(caller)}.{escape(target)}.{escape(connection)}."

    def part(self, to: str, end: str, sender: str, exchange_id: str) -> str:
        """`exchange_id` is made of tokens already."""
        return f"{self.root}part.{escape(to)}.{escape(end)}.{escape(sender)}.{exchange_id}"

    def message(self, target: str, sender: str, priority: str) -> str:
        return f"{self.root}msg.{escape(target)}.{escape(sender)}.{escape(priority)}"

    def dead(self, target: str, stream: str, number: str) -> str:
        return f"{self.root}dead.{escape(target)}.{escape(stream)}.{escape(number)}"

    # what to subscribe to

    def lane(self, target: str, priority: str) -> str:
        """The messages of one priority to one name."""
        return f"{self.root}msg.{escape(target)}.*.{priority}"

    def lanes(self, priority: str) -> str:
        """What the stream of a priority takes."""
        return f"{self.root}msg.*.*.{priority}"

    def dead_of(self, target: str | None = None) -> str:
        """The dead letters of one name, or of all."""
        return f"{self.root}dead.{'*' if target is None else escape(target)}.*.*"

    def parts_to(self, name: str, end: str) -> str:
        return f"{self.root}part.{escape(name)}.{escape(end)}.>"

    def calls_to(self, target: str, instance: str, *, quiet: bool = False) -> str:
        return f"{self.root}{'quiet' if quiet else 'call'}.{escape(target)}.{escape(instance)}.>"

    def probes_to(self, target: str, instance: str) -> str:
        return f"{self.root}probe.{escape(target)}.{escape(instance)}.*"

    def notes_to(self, target: str) -> str:
        return f"{self.root}note.{escape(target)}.>"

    def replies_to(self, caller: str, connection: str, *, quiet: bool = False) -> str:
        return f"{self.root}{'hush' if quiet else 'reply'}.{escape(caller)}.*.{escape(connection)}.*"

    def bucket_copy(self, bucket: str, agent: str | None = None) -> str:
        """The live copies of a bucket (`health`, `registry`) that the broker republishes: of one agent, or of all."""
        return f"{self.root}{bucket}.{'*' if agent is None else escape(agent)}.*"

    @property
    def gone(self) -> str:
        """Where the control plane says which callers are gone."""
        return f"{self.root}gone.*.*"

    @property
    def disconnects(self) -> str:
        """Where nats-server.conf imports the broker's disconnect events of this account to."""
        return f"{self.root}broker.disconnect"

    # what the journal stream takes, and what its readers ask for

    @property
    def journaled(self) -> tuple[str, ...]:
        return (f"{self.root}call.>", f"{self.root}note.>", f"{self.root}record.>", f"{self.root}reply.*.*.*.*")

    @property
    def reply_fold(self) -> tuple[str, str]:
        """Source and destination of the journal's subject transform: a reply subject is unique, and would each be an index entry."""
        return f"{self.root}reply.*.*.*.*", f"{self.root}reply.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}"

    def journal_filters(self, *, target: str | None = None, caller: str | None = None) -> tuple[str, ...]:
        """What the journal holds of the calls from a caller to a target."""
        to, by = ("*" if name is None else escape(name) for name in (target, caller))
        return (
            f"{self.root}call.{to}.*.{by}.>",
            f"{self.root}note.{to}.{by}.>",
            f"{self.root}record.{to}.{by}",
            f"{self.root}reply.{by}.{to}",
        )

    # what a permission names: as narrow as the grammar is, and as wide as what is subscribed to

    def rights_call(
        self, target: str | Token, caller: str | Token, method: str | None = None, name: str | Token | None = None, *, below: bool = False
    ) -> tuple[str, str]:
        """Calls and quiet calls to any instance of `target`: all, those of one method (`name`: which tool, prompt or resource), or with
        `below` those of the methods that begin with `method/`."""
        if method is None:
            said = ">"
        elif isinstance(name, Token):
            said = f"{tail(method, '-').rpartition('.')[0]}.{name}"
        else:
            said = tail(method, name) + (".>" if below else "")
        to, by = _token(target), _token(caller)
        return f"{self.root}call.{to}.*.{by}.{said}", f"{self.root}quiet.{to}.*.{by}.{said}"

    def rights_taking(self, target: str | Token, instance: str | Token) -> tuple[str, str, str, str]:
        """What an instance subscribes to, to take what is addressed to a name: calls, quiet calls, probes, notices."""
        to = f"{_token(target)}.{_token(instance)}"
        return (
            f"{self.root}call.{to}.>",
            f"{self.root}quiet.{to}.>",
            f"{self.root}probe.{to}.*",
            f"{self.root}note.{_token(target)}.>",
        )

    def rights_probe(self, target: str | Token, caller: str | Token) -> str:
        return f"{self.root}probe.{_token(target)}.*.{_token(caller)}"

    def rights_note(self, target: str | Token, caller: str | Token) -> str:
        return f"{self.root}note.{_token(target)}.{_token(caller)}.>"

    def rights_replies(self, caller: str | Token, target: str | Token) -> tuple[str, str]:
        """Frames of journaled and of quiet exchanges, on any connection of the caller."""
        between = f"{_token(caller)}.{_token(target)}.*.*"
        return f"{self.root}reply.{between}", f"{self.root}hush.{between}"

    def rights_parts(self, to: str | Token, sender: str | Token) -> str:
        return f"{self.root}part.{_token(to)}.*.{_token(sender)}.*.*.*"

    def rights_parts_to(self, to: str | Token) -> str:
        """To subscribe to: there the broker compares token by token, and `>` is one."""
        return f"{self.root}part.{_token(to)}.>"

    def rights_record(self, target: str | Token) -> str:
        return f"{self.root}record.{_token(target)}.*"

    def rights_send(self, target: str | Token, sender: str | Token) -> str:
        return f"{self.root}msg.{_token(target)}.{_token(sender)}.*"

    def rights_dead(self, target: str | Token) -> str:
        return f"{self.root}dead.{_token(target)}.*.*"

    def rights_copy(self, bucket: str, agent: str | Token) -> str:
        return f"{self.root}{bucket}.{_token(agent)}.*"

    def bucket_republish(self, bucket: str) -> tuple[str, str]:
        """Source and destination by which the broker copies each change of a bucket to plain subscribers."""
        return f"$KV.{bucket}.>", f"{self.root}{bucket}.>"


def _token(name: str | Token) -> str:
    return name.text if isinstance(name, Token) else escape(name)


def rights_key(agent: str | Token) -> str:
    """The keys of all instances of an agent, in the buckets `registry` and `health`."""
    return f"{_token(agent)}.*"


def rights_inbox(name: str | Token) -> str:
    """The inboxes of one participant: each has a prefix of its own, so that nobody hears another's answers."""
    return f"_INBOX.{_token(name)}.>"


def rights_api(verb: str) -> str:
    """A request to JetStream. `verb` with its tokens: `STREAM.INFO.JOURNAL`, `CONSUMER.MSG.NEXT.JOURNAL.*`."""
    return f"$JS.API.{verb}"


def rights_ack(stream: str, consumer: str | Token) -> str:
    """What is said of a message that a consumer delivered: done, again, never again."""
    return f"$JS.ACK.{stream}.{_token(consumer)}.>"


def given_up(stream: str) -> str:
    """Where the broker says that a message of a stream was delivered as often as it may be (NATS ADR-5: `MAX_DELIVERIES`)."""
    return f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.*"


ALL_INBOXES: Final = "_INBOX.>"
USER_INFO: Final = "$SYS.REQ.USER.INFO"
"""Where the server tells a connection what that connection may do."""
MICRO: Final = "$SRV.>"
"""NATS micro discovery (ADR-32)."""


def _read_call(tokens: list[str], *, quiet: bool = False) -> Subject | None:
    if len(tokens) < 4:
        return None
    target, instance, caller = map(unescape, tokens[:3])
    method, name = read_tail(tokens[3:])
    return Call(target, instance, caller, method, name, quiet)


def _read_hush(tokens: list[str]) -> Subject | None:
    if len(tokens) != 4:
        return None
    caller, target, connection, exchange = map(unescape, tokens)
    return Reply(caller, target, connection, exchange, quiet=True)


def _read_reply(tokens: list[str]) -> Subject | None:
    if len(tokens) == 4:
        caller, target, connection, exchange = map(unescape, tokens)
        return Reply(caller, target, connection, exchange)
    return FoldedReply(*map(unescape, tokens)) if len(tokens) == 2 else None
