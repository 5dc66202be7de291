"""Has resources that can be subscribed to, a log level, and a tool that touches a resource: what the SDK's server leaves to its users."""

import json
from typing import Any

from tests.servers import echo

BOOKS = ("book:///1", "shared:///x")


class Server(echo.Server):
    tools: Any = ("touch", "level", "roots", "never", "crash")
    versions = ("2025-11-25",)
    level = ""

    def __init__(self) -> None:
        super().__init__()
        self.subscribed: set[str] = set()

    def take(self, line: bytes) -> None:
        message = json.loads(line)
        params = message.get("params", {})
        match message.get("method"):
            case "logging/setLevel":
                self.level = params["level"]
                self.send(id=message["id"], result={})
            case "resources/subscribe":
                self.subscribed.add(params["uri"])
                self.send(id=message["id"], result={})
            case "resources/list":
                self.send(id=message["id"], result={"resources": [{"uri": uri, "name": uri} for uri in BOOKS]})
            case "resources/templates/list":
                self.send(id=message["id"], result={"resourceTemplates": [{"uriTemplate": "book:///{n}", "name": "book"}]})
            case "resources/read":
                contents = [{"uri": params["uri"], "text": f"library has {params['uri']}"}]
                self.send(id=message["id"], result={"contents": contents})
            case None if "result" in message and message["id"] == 1:
                self.finish(self.asking, str(message["result"]["roots"][0]["uri"]))
            case _:
                super().take(line)

    def answer(self, id: Any, method: str) -> None:
        if method == "initialize":
            capabilities = {"tools": {}, "logging": {}, "resources": {"subscribe": True}}
            info = {"name": "library", "version": "1"}
            self.send(id=id, result={"protocolVersion": "2025-11-25", "capabilities": capabilities, "serverInfo": info})
        else:
            super().answer(id, method)

    def call(self, id: Any, params: dict[str, Any], line: bytes) -> None:
        match params["name"]:
            case "touch":
                for uri in sorted(self.subscribed):
                    self.send(method="notifications/resources/updated", params={"uri": uri})
                self.finish(id, str(len(self.subscribed)))
            case "level":
                self.send(method="notifications/message", params={"level": "error", "data": "asked"})
                self.finish(id, self.level)
            case "roots":
                self.asking = id
                self.send(id=1, method="roots/list")
            case _:
                super().call(id, params, line)


if __name__ == "__main__":
    Server().run()
