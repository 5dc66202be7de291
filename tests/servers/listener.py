"""A modern stdio server with listens: the tool `tell` says that the tools have changed, `hang_up` ends all listens as a server does."""

from typing import Any

from tests.servers import echo

ID = "io.modelcontextprotocol/subscriptionId"


class Server(echo.Server):
    tools: Any = ("echo", "tell", "hang_up")
    versions = ("2026-07-28",)

    def __init__(self) -> None:
        super().__init__()
        self.listens: list[Any] = []

    def answer(self, id: Any, method: str) -> None:
        if method == "subscriptions/listen":
            self.listens.append(id)
            said = {"_meta": {ID: id}, "notifications": {"toolsListChanged": True}}
            self.send(method="notifications/subscriptions/acknowledged", params=said)
        else:
            super().answer(id, method)

    def call(self, id: Any, params: dict[str, Any], line: bytes) -> None:
        if params["name"] == "tell":
            for each in self.listens:
                self.send(method="notifications/tools/list_changed", params={"_meta": {ID: each}})
            self.finish(id, "told")
        elif params["name"] == "hang_up":
            while self.listens:
                self.send(method="notifications/cancelled", params={"requestId": self.listens.pop(), "reason": "so long"})
            self.finish(id, "hung up")
        else:
            super().call(id, params, line)


if __name__ == "__main__":
    Server().run()
