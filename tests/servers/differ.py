"""The server of generated exchanges: it finds the key of an exchange in what it is sent, says what `tests.generated` has for it, and echoes
each line that came with its holes blank: so what a bridge changed on the way to the server is seen at the host.

It takes one line after the other and never parses JSON.
"""

import json
import re
import sys
from collections import deque

from tests.generated import Ask, Exchange, Text, exchange

_key = re.compile(rb'"x-(seed|note|answer|cancels)":"([^"]+)"').search
_id = re.compile(rb'"id": ?("[^"]*"|\d+)').search


class Server:
    def __init__(self) -> None:
        self.lines: deque[bytes] = deque()
        self.held: dict[str, bytes] = {}
        self.heard: list[str] = []
        """What came since the last response, holes blank."""

    def run(self) -> None:
        while line := self.next():
            self.take(line)

    def next(self) -> bytes:
        return self.lines.popleft() if self.lines else sys.stdin.buffer.readline()[:-1]

    def write(self, raw: bytes) -> None:
        sys.stdout.buffer.write(raw + b"\n")
        sys.stdout.buffer.flush()

    def take(self, line: bytes) -> None:
        found = _key(line)
        if found is None:
            self.ordinary(line)
            return
        kind, key = found.group(1), found.group(2).decode()
        if kind == b"seed":
            self.exchange(exchange(key), line)
        elif kind == b"cancels":
            values = exchange(key).cancelled.match(line) or {}
            same = values.get("id") == self.held.pop(key, None)
            self.heard.append(exchange(key).cancelled.blank.decode() if same else f"a cancellation: {line.decode('latin-1')}")
        else:
            self.heard.append(line.decode("latin-1"))

    def exchange(self, known: Exchange, line: bytes) -> None:
        values = known.request.match(line)
        self.heard.append(known.request.blank.decode() if values is not None else f"a request: {line.decode('latin-1')}")
        found = _id(line)
        values = values or {"id": found.group(1) if found else b"null", "token": b"null"}
        for said in known.script:
            if isinstance(said, Text):
                if raw := said.fill(**values):
                    self.write(raw)
            else:
                self.ask(said)
        if known.final is None:
            self.held[known.key] = values["id"]
        else:
            echo = json.dumps(self.heard).encode()
            self.heard = []
            self.write(known.final.fill(**values, echo=echo))

    def ask(self, said: Ask) -> None:
        """Ask, and wait for the answer; what else comes waits."""
        self.write(said.text)
        waiting: list[bytes] = []
        while line := self.next():
            found = _key(line)
            if found is not None and found.group(1) == b"answer":
                self.heard.append("the answer" if line == said.answer else f"an answer: {line.decode('latin-1')}")
                break
            waiting.append(line)
        self.lines.extendleft(reversed(waiting))

    def ordinary(self, line: bytes) -> None:
        """What the bridge and the host need before the first exchange."""
        message = json.loads(line)
        method, id = message.get("method"), message.get("id")
        if method == "server/discover":
            self.answer(
                id, {"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "supportedVersions": ["2026-07-28"], "capabilities": {}}
            )
        elif method == "initialize":
            info = {"name": "differ", "version": "1"}
            self.answer(id, {"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": info, "x": [1.0, None]})
        elif id is not None:
            self.write(json.dumps({"jsonrpc": "2.0", "id": id, "error": {"code": -32601, "message": "Method not found"}}).encode())

    def answer(self, id: object, result: object) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", "id": id, "result": result}).encode())


if __name__ == "__main__":
    Server().run()
