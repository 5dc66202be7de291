"""A server of the handshake era that asks its host and talks to it: elicitation within a call, log messages. Speaks the revision that it is
offered.
"""

import json
from typing import Any

from tests.servers import echo


class Server(echo.Server):
    tools: Any = (*echo.Server.tools, "ask", "log")
    versions = ("2025-11-25",)

    def __init__(self) -> None:
        super().__init__()
        self.asking: dict[str, Any] = {}

    def take(self, line: bytes) -> None:
        message = json.loads(line)
        if message.get("method") == "initialize":
            result = {"protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}, "logging": {}}}
            self.send(id=message["id"], result={**result, "serverInfo": {"name": "asker", "version": "1"}})
            return
        if "method" not in message and message.get("id") in self.asking:
            self.finish(self.asking.pop(message["id"]), json.dumps(message.get("result", message.get("error"))))
            return
        super().take(line)

    def call(self, id: Any, params: dict[str, Any], line: bytes) -> None:
        arguments = params.get("arguments", {})
        if params["name"] == "ask":
            asked = f"ask-{len(self.asking)}"
            self.asking[asked] = id
            schema = {"type": "object", "properties": {"name": {"type": "string"}}}
            self.send(id=asked, method="elicitation/create", params={"message": "Who?", "requestedSchema": schema})
        elif params["name"] == "log":
            for number in range(arguments.get("count", 1)):
                self.send(method="notifications/message", params={"level": "info", "data": number})
            self.finish(id, "logged")
        else:
            super().call(id, params, line)


if __name__ == "__main__":
    Server().run()
