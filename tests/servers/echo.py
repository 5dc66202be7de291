"""A stdio MCP server without the SDK: it starts in an instant, speaks both eras, and its tools misbehave as they are asked to.

The other servers of this directory are this one with one habit changed.
"""

import json
import os
import sys
import threading
from typing import Any

META = "io.modelcontextprotocol/"


class Server:
    """`run` reads stdin to its end. Tools that take their time have a thread each."""

    tools = ("echo", "pid", "slow", "wait", "crash", "error", "tool_error", "raw", "big", "never", "hang", "say")
    versions: tuple[str, ...] = ("2026-07-28", "2025-11-25")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.changed = threading.Condition()
        self.cancelled: set[str] = set()
        self.seen: list[str] = []

    def run(self) -> None:
        for line in sys.stdin.buffer:
            self.take(line)

    def write(self, raw: bytes) -> None:
        with self.lock:
            sys.stdout.buffer.write(raw + b"\n")
            sys.stdout.buffer.flush()

    def send(self, **message: Any) -> None:
        self.write(json.dumps({"jsonrpc": "2.0", **message}).encode())

    def take(self, line: bytes) -> None:
        message = json.loads(line)
        method, id, params = message.get("method"), message.get("id"), message.get("params", {})
        with self.changed:
            self.seen.append(str(method))
            if method == "notifications/cancelled":
                self.cancelled.add(params["requestId"])
            self.changed.notify_all()
        if id is None or method is None:
            return
        if method == "tools/call":
            self.call(id, params, line)
        else:
            self.answer(id, method)

    def answer(self, id: Any, method: str) -> None:
        info = {"name": "echo", "title": "An echo", "version": "1.2.3"}
        capabilities: dict[str, Any] = {"tools": {}, "logging": {}}
        if method == "server/discover" and "2026-07-28" in self.versions:
            versions = [each for each in self.versions if each == "2026-07-28"]
            found = {
                "resultType": "complete",
                "ttlMs": 0,
                "cacheScope": "private",
                "supportedVersions": versions,
                "capabilities": capabilities,
            }
            self.send(id=id, result={**found, "_meta": {META + "serverInfo": info}})
        elif method == "initialize" and "2025-11-25" in self.versions:
            self.send(id=id, result={"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info})
        elif method == "tools/list":
            tools = [{"name": name, "inputSchema": {"type": "object"}} for name in self.tools]
            self.send(id=id, result={"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": tools})
        elif method == "ping":
            self.send(id=id, result={})
        else:
            self.send(id=id, error={"code": -32601, "message": "Method not found"})

    def call(self, id: Any, params: dict[str, Any], line: bytes) -> None:
        name, arguments = params["name"], params.get("arguments", {})
        match name:
            case "echo":
                self.finish(id, line.decode(), {"arguments": arguments, "pid": os.getpid()})
            case "pid":
                self.finish(id, str(os.getpid()))
            case "slow" | "wait":
                threading.Thread(target=getattr(self, name), args=(id, params, arguments), daemon=True).start()
            case "crash":
                os._exit(7)
            case "error":
                self.write(
                    b'{"jsonrpc":"2.0","id":' + json.dumps(id).encode() + b',"error":{"code":-32123,"message":"no \\u2603",'
                    b'"data":{"n":123456789012345678901234567890}}}'
                )
            case "tool_error":
                self.send(id=id, result={"content": [{"type": "text", "text": "no"}], "isError": True})
            case "raw":
                self.write(b'{"jsonrpc":"2.0","id":' + json.dumps(id).encode() + b"," + arguments["text"].encode() + b"}")
            case "big":
                self.finish(id, "x" * arguments["bytes"])
            case "never":
                pass
            case "hang":
                threading.Event().wait()
            case "say":
                self.write(arguments["text"].encode())
                self.finish(id, "said")
            case _:
                self.send(id=id, error={"code": -32602, "message": f"Unknown tool: {name}"})

    def finish(self, id: Any, text: str, structured: Any = None) -> None:
        more = {} if structured is None else {"structuredContent": structured}
        self.send(id=id, result={"resultType": "complete", "content": [{"type": "text", "text": text}], "isError": False, **more})

    def slow(self, id: Any, params: dict[str, Any], arguments: dict[str, Any]) -> None:
        """Progress `steps` times in `seconds`, then a result; nothing more once it is cancelled."""
        steps = arguments.get("steps", 1)
        token = params.get("_meta", {}).get("progressToken")
        for step in range(1, steps + 1):
            with self.changed:
                if self.changed.wait_for(lambda: id in self.cancelled, arguments["seconds"] / steps):
                    return
            if token is not None:
                said = {"progressToken": token, "progress": step, "total": steps, "message": f"step {step}"}
                self.send(method="notifications/progress", params=said)
        self.finish(id, "done")

    def wait(self, id: Any, _: dict[str, Any], arguments: dict[str, Any]) -> None:
        """Answer once `method` has come `count` times."""
        with self.changed:
            came = self.changed.wait_for(lambda: self.seen.count(arguments["method"]) >= arguments["count"], 5)
        self.finish(id, str(came))


if __name__ == "__main__":
    Server().run()
