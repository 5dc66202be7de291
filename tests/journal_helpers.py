"""Writes what the journal would hold: stored messages with sequences and times, for the pure tests of pairing."""

import json
from typing import Any

from mesh.audit.calls import JournalCall
from mesh.audit.pairing import Pairing
from mesh.link.reader import Stored
from mesh.subjects import Call, FoldedReply, Note, Record, Subject, Subjects, escape
from mesh.wire import control

SUBJECTS = Subjects()
START_NS = 1_769_860_800_000_000_000
STEP_NS = 1_000_000
"""A millisecond between two messages."""


def id_of(caller: str, exchange: int | str, connection: str = "c0") -> str:
    return f"{escape(caller)}.{connection}.{exchange}"


class Tape:
    """The stream, being written. Each method adds one message and returns it."""

    def __init__(self, first_seq: int = 1) -> None:
        self.messages: list[Stored] = []
        self._next = first_seq

    def put(self, subject: str | Subject, body: Any, headers: dict[str, str] | None = None) -> Stored:
        text = subject if isinstance(subject, str) else SUBJECTS.build(subject)
        raw = body if isinstance(body, bytes) else json.dumps(body, separators=(",", ":")).encode()
        message = Stored(text, raw, headers, self._next, START_NS + self._next * STEP_NS)
        self._next += 1
        self.messages.append(message)
        return message

    def skip(self, count: int) -> None:
        """Let time pass."""
        self._next += count

    def call(
        self, caller: str, target: str, id: str, *, method: str = "tools/call", name: str | None = "t", instance: str = "any", **params: Any
    ) -> Stored:
        given = {**({"name": name} if name is not None else {}), **params}
        return self.put(Call(target, instance, caller, method, name), {"jsonrpc": "2.0", "id": id, "method": method, "params": given})

    def reply(self, caller: str, target: str, body: Any, headers: dict[str, str] | None = None) -> Stored:
        return self.put(FoldedReply(caller, target), body if isinstance(body, bytes) else {"jsonrpc": "2.0", **body}, headers)

    def result(self, caller: str, target: str, id: str, **result: Any) -> Stored:
        return self.reply(caller, target, {"id": id, "result": {"content": [], **result}})

    def error(self, caller: str, target: str, id: str, code: int = -32603, message: str = "no", data: Any = None) -> Stored:
        return self.reply(caller, target, {"id": id, "error": {"code": code, "message": message, **({"data": data} if data else {})}})

    def working(self, caller: str, target: str, id: str, agent: str, instance: str) -> Stored:
        return self.reply(caller, target, control.working(id, agent, instance))

    def cancel(self, caller: str, target: str, id: str, reason: str = "enough") -> Stored:
        return self.put(Note(target, caller, "notifications/cancelled"), control.cancelled(id, reason))

    def record(self, caller: str, target: str, id: str, changes: dict[str, Any] | None = None) -> Stored:
        body = {
            "id": id, "caller": caller, "target": target, "instance": "i1", "method": "tools/call", "name": "t", "outcome": "ok",
            "started_ns": START_NS, "duration_ms": 3.5, "bytes_in": 10, "bytes_out": 20,
        }  # fmt: skip
        return self.put(Record(target, caller), body | (changes or {}))


def pair(messages: list[Stored], **options: Any) -> tuple[Pairing, list[JournalCall]]:
    pairing = Pairing(SUBJECTS, **options)
    return pairing, [call for message in messages for call in pairing.feed(message)]


def one(tape: Tape) -> JournalCall:
    pairing, calls = pair(tape.messages)
    assert not pairing.suspects
    assert len(calls) == 1
    return calls[0]
