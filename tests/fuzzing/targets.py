"""Every parser that sees bytes from outside: how to feed it, what it may raise, and good inputs to start from.

What it may raise is what its callers catch. Anything else is a crash. Where a parser has an opposite, that must hold as well.
"""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Final

from bridge.config import read_file
from bridge.eras.state import Claim, Sealer, StateRefused, holder_in, holder_of
from bridge.lines import Lines
from bridge.sse import EventStream
from bridge.web.guard import Guard
from bridge.web.rules import accepts, is_modern, modern_problem, post_problem, status_of
from mesh.audit.parts import PartReader
from mesh.crypto import jwt
from mesh.crypto.creds import format_credentials, parse_credentials
from mesh.crypto.keys import Kind, new_key, read_seed, verify
from mesh.errors import MalformedMessage, MeshError
from mesh.identity import records
from mesh.identity.policy_file import read_policy
from mesh.link.jetstream import parse_delivery, time_ns
from mesh.link.parts import read_stub
from mesh.link.reader import Stored
from mesh.policy.rights import parse_rule
from mesh.subjects import Subjects, escape, unescape
from mesh.wire import control
from mesh.wire.bodies import read_cancellation, read_end, read_record, read_trace
from mesh.wire.entries import Health, InstanceEntry, ProbeAnswer, ProbeQuestion, read
from mesh.wire.jsonrpc import scan


@dataclass(frozen=True, slots=True)
class Target:
    """One parser. `feed` raises nothing but `allowed`, and AssertionError where what it read is not what was written."""

    name: str
    feed: Callable[[bytes], object]
    allowed: tuple[type[Exception], ...]
    good: tuple[bytes, ...]
    share: int = 10
    """How many inputs it gets beside the others: those that read a file take a hundred times as long."""


_subjects: Final = Subjects()
_journal: Final = PartReader(_subjects)
_guard: Final = Guard(("mesh.example",), ("https://app.example",))
_sealer: Final = Sealer("time", "i1")
_directory: Final = Path(mkdtemp(prefix="fuzz-"))

MESSAGES: Final = (
    (
        b'{"jsonrpc":"2.0","id":"qa.c1.7","method":"tools/call","params":{"name":"now","arguments":{"a":[1,2.5e3,null,"\xc3\xa9\\ud83d\\ude00"]},'
        b'"_meta":{"progressToken":"qa.c1.7","io.modelcontextprotocol/protocolVersion":"2026-07-28","traceparent":"00-4bf9-00f0-01"}}}'
    ),
    b'{"jsonrpc":"2.0","id":123456789012345678901234567890,"result":{"content":[{"type":"text","text":"x"}],"isError":true}}',
    b'{"jsonrpc":"2.0","id":1,"error":{"code":-32070,"message":"busy","data":{"mesh":"busy","retry_after":1.0}}}',
    b'{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":"t","progress":1E400,"total":2}}',
    b'{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":"qa.c1.7","reason":"enough"}}',
    b'{"jsonrpc":"2.0","method":"notifications/mesh/working","params":{"exchange":"qa.c1.7","agent":"time","instance":"i1"}}',
    b'{"jsonrpc":"2.0","method":"notifications/mesh/resume","params":{"exchanges":["qa.c1.7","qa.c1.8"]}}',
    b'{"jsonrpc":"2.0","method":"notifications/mesh/part","params":{"size":3000000,"sha256":"ab","chunks":3}}',
    b'{"jsonrpc":"2.0","id":2,"method":"resources/read","params":{"uri":"file:///a b.*>"},"x":{"y":[[[]]]}}',
)

SUBJECTS: Final = tuple(
    f"mesh.v1.{text}".encode()
    for text in (
        "call.time.any.qa.tools.call.now",
        "quiet.time.i1.qa.resources.read.file_x3A__x2F_",
        "probe.time.any.qa",
        "note.time.qa.notifications.cancelled",
        "reply.qa.time.c1.7",
        "hush.qa.time.c1.q7",
        "reply.qa.time",
        "part.time.i1.qa.qa.c1.7",
        "record.time.qa",
        "gone.qa.c1",
        "health.time.i1",
    )
)

_entry: Final = InstanceEntry(agent="time", instance="i1", started_ns=1, host="h", pid=1, mesh_version="0").encode()
_user: Final = new_key(Kind.USER)
_account: Final = new_key(Kind.ACCOUNT)
_token: Final = jwt.sign_user(_account, _user.public, "qa", account=_account.public, tags=["role:reviewer"], issued=1, expires=None)

POLICY: Final = (
    b'[roles.reviewer]\nabout = "reads"\ncall = ["time/now", "git", "notes/prompt:weekly", "*/ping", "git/git_*"]\nextends = ["auditor"]\n',
    b'[roles]\n[roles."a b"]\ncall = []\n',
)
CONFIG: Final = (
    (
        b'[agents.time]\ncommand = ["mcp-server-time"]\nroles = ["clock"]\n[agents.time.tools.now]\njournal = "none"\n[agents.r]\n'
        b'url = "https://h/mcp"\n[http]\nport = 0\n'
    ),
    b'[agents.n]\npython = "examples.notes:server"\nat_once = 8\n[agents.n.env]\nA = "1"\n' + POLICY[0],
)
HOSTS: Final = (
    b'{"mcpServers":{"time":{"command":"mcp-server-time","args":["--x"],"env":{"A":"1"}},"r":{"url":"https://h/mcp","type":"sse"}}}',
    b'{"servers":{"a":{"type":"http","url":"http://h"}}}',
)


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _scan(raw: bytes) -> None:
    frame = scan(raw)
    assert frame.splice([]) == raw
    if frame.id_span is not None:
        assert frame.splice([(frame.id_span, raw[slice(*frame.id_span)])]) == raw
    for reader in (control.read_holder, control.read_resume, read_cancellation, read_trace):
        try:
            reader(raw)
        except MeshError:
            continue
    read_stub(frame)
    holder_of(frame)
    if frame.final:
        read_end(frame)


def _subject(raw: bytes) -> None:
    text = _text(raw)
    assert _subjects.build(_subjects.parse(text)) == text or "_x_" in text  # a name that is told by its digest cannot be built again


def _escape(raw: bytes) -> None:
    text = _text(raw)
    token = escape(text)
    assert unescape(token) == text
    assert not set(token) & set(".*> \t\r\n")
    unescape(text)


def _part(raw: bytes) -> None:
    subject, _, body = raw.partition(b"\n")
    _journal.read(Stored(_text(subject), body, None, 1, 1))


def _entries(raw: bytes) -> None:
    problems = 0
    for model in (InstanceEntry, Health, ProbeAnswer, ProbeQuestion):
        try:
            read(model, raw)
        except MalformedMessage:
            problems += 1
    assert problems < 5


def _headers(raw: bytes) -> None:
    lines = [line.partition(b":") for line in raw.split(b"\n") if line]
    pairs = [(key.lower(), value) for key, _, value in lines]
    headers = dict(pairs)
    _guard.refusal(headers.get(b"host"), headers.get(b"origin"))
    accepts(headers)
    if post_problem(headers) is None and is_modern(headers):
        modern_problem(headers, pairs, scan(headers.get(b"body", MESSAGES[0])))


def _config(suffix: str) -> Callable[[bytes], object]:
    path = _directory / f"mesh{suffix}"

    def feed(raw: bytes) -> None:
        path.write_bytes(raw)
        read_file(path)

    return feed


def _policy(raw: bytes) -> None:
    path = _directory / "policy.toml"
    path.write_bytes(raw)
    read_policy(path)


def _seal(raw: bytes) -> None:
    state = raw.decode("latin-1")
    holder_in(state)
    _sealer.open(state, 1.0)


def _stream(raw: bytes) -> None:
    whole, cut = EventStream(65536), EventStream(65536)
    half = len(raw) // 2
    assert whole.feed(raw) == cut.feed(raw[:half]) + cut.feed(raw[half:])


def _lines(raw: bytes) -> None:
    whole, cut = Lines(4096), Lines(4096)
    half = len(raw) // 2
    assert whole.feed(raw) == cut.feed(raw[:half]) + cut.feed(raw[half:])


TARGETS: Final = (
    Target("message", _scan, (MeshError,), MESSAGES),
    Target("status of a response", status_of, (), MESSAGES),
    Target(
        "journal record",
        read_record,
        (MeshError,),
        (
            b'{"id":"qa.c.1","caller":"qa","target":"t","instance":"i","method":"ping","outcome":"ok","duration_ms":1.5,"bytes_in":1,"bytes_out":2}',
            *MESSAGES,
        ),
    ),
    Target("subject", _subject, (MeshError,), SUBJECTS),
    Target("token of a subject", _escape, (MeshError,), (b"a-b_c", b"a b.*>", "\N{SNOWMAN}_x41_".encode(), b"_x")),
    Target("message of the journal", _part, (MeshError,), tuple(s + b"\n" + m for s in SUBJECTS for m in MESSAGES[:3])),
    Target(
        "entry of a bucket", _entries, (), (_entry, b'{"about":"time"}', b'{"agent":"a","instance":"i","client":{"server":"s","id":1}}')
    ),
    Target("rule", lambda raw: parse_rule(_text(raw)), (MeshError,), (b"time/now", b"notes/prompt:weekly", b"*/ping", b"git/git_*")),
    Target("policy file", _policy, (MeshError,), POLICY, 1),
    Target("mesh.toml", _config(".toml"), (MeshError,), CONFIG, 1),
    Target("mcpServers", _config(".json"), (MeshError,), HOSTS, 1),
    Target("claims of a user", lambda raw: jwt.read(_text(raw), "user"), (MeshError,), (_token.encode(),)),
    Target("credentials", lambda raw: parse_credentials(_text(raw)), (MeshError,), (format_credentials(_token, _user.seed).encode(),)),
    Target("seed", lambda raw: read_seed(_text(raw)), (MeshError,), (_user.seed.encode(),)),
    Target("signature", lambda raw: verify(_text(raw[:56]), raw, raw[-64:]), (MeshError,), (_user.public.encode() + b"x" * 64,)),
    Target(
        "records of users", lambda raw: records.load(_text(raw), "users.json"), (MeshError,), (b'{"users":{},"voided":{},"retiring":{}}',)
    ),
    Target(
        "request state",
        _seal,
        (StateRefused,),
        (_sealer.seal(Claim("qa", "tools/call", "now", "x", 1), 2.0).encode(), base64.b64encode(b"x" * 80)),
    ),
    Target(
        "HTTP headers",
        _headers,
        (MeshError,),
        (
            (
                b"host:127.0.0.1:80\norigin:http://localhost\naccept:application/json, text/event-stream\ncontent-type:application/json\n"
                b"mcp-protocol-version:2026-07-28\nmcp-method:tools/call\nmcp-name:now"
            ),
        ),
    ),
    Target("SSE stream", _stream, (ValueError, MeshError), (b"id: 1\nevent: message\ndata: {}\ndata: x\n\n:c\r\nretry: 1\r\r\n",)),
    Target("lines", _lines, (ValueError, MeshError), (b'{"a":1}\n{"b":2}\r\n',)),
    Target("ack subject", lambda raw: parse_delivery(_text(raw)), (MeshError,), (b"$JS.ACK.S.c.1.2.3.4.5",)),
    Target("time of the server", lambda raw: time_ns(_text(raw)), (ValueError,), (b"2026-01-31T12:00:00.123456789Z",)),
)
