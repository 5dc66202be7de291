"""A server that answers each request with the very bytes that came: `{"was": REQUEST, "told": [NOTIFICATION, ...]}`. As a program
over stdio; over other transports a test calls `Mirror`.
"""

import json
import sys


class Mirror:
    """What one connection was told so far."""

    def __init__(self) -> None:
        self.told: list[bytes] = []

    def take(self, raw: bytes) -> bytes | None:
        """The answer to a message. None: it was no request."""
        id = json.loads(raw).get("id")
        if id is None:
            self.told.append(raw)
            return None
        told = b",".join(self.told)
        return b'{"jsonrpc":"2.0","id":' + json.dumps(id).encode() + b',"result":{"was":' + raw + b',"told":[' + told + b"]}}"


if __name__ == "__main__":
    mirror = Mirror()
    for line in sys.stdin.buffer:
        if (answer := mirror.take(line.strip())) is not None:
            sys.stdout.buffer.write(answer + b"\n")
            sys.stdout.buffer.flush()
