"""A server that has tasks itself, in both eras: each call that asks for one, or whose client knows of them, is one, and over at once."""

import json
from typing import Any

from tests.servers import echo

EXTENSION = "io.modelcontextprotocol/tasks"
TASK = {"taskId": "mine", "status": "completed", "createdAt": "2026-01-01T00:00:00Z", "lastUpdatedAt": "2026-01-01T00:00:00Z"}


class Server(echo.Server):
    def send(self, **message: Any) -> None:
        capabilities = message.get("result", {}).get("capabilities")
        if capabilities is not None:
            capabilities |= {"extensions": {EXTENSION: {}}} if "supportedVersions" in message["result"] else {"tasks": {"list": {}}}
        super().send(**message)

    def take(self, line: bytes) -> None:
        message = json.loads(line)
        method, params = message.get("method") or "", message.get("params", {})
        modern = echo.META + "protocolVersion" in params.get("_meta", {})
        asked = params.get("_meta", {}).get(echo.META + "clientCapabilities", {}) if modern else params
        task = {**TASK, **({"resultType": "complete", "ttlMs": None} if modern else {"ttl": None})}
        if method == "tools/call" and (EXTENSION in asked.get("extensions", {}) if modern else "task" in asked):
            self.send(id=message["id"], result={**task, "resultType": "task"} if modern else {"task": task})
        elif method.startswith("tasks/"):
            self.send(id=message["id"], result={**task, "of": method})
        else:
            super().take(line)


if __name__ == "__main__":
    Server().run()
