"""Has a tool whose argument is repeated in a header."""

from typing import Any

from tests.servers import echo


class Server(echo.Server):
    def answer(self, id: Any, method: str) -> None:
        if method == "tools/list":
            properties = {"region": {"type": "string", "x-mcp-header": "Region"}, "other": {"type": "integer"}}
            tools = [{"name": "where", "inputSchema": {"type": "object", "properties": properties}}]
            self.send(id=id, result={"resultType": "complete", "ttlMs": 0, "cacheScope": "private", "tools": tools})
        else:
            super().answer(id, method)

    def call(self, id: Any, params: dict[str, Any], line: bytes) -> None:
        self.finish(id, "here")


if __name__ == "__main__":
    Server().run()
