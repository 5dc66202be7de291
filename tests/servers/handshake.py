"""Speaks the handshake era only, and refuses everything before `initialize`, as servers of that era do."""

from typing import Any

from tests.servers import echo


class Server(echo.Server):
    versions = ("2025-11-25",)
    ready = False

    def answer(self, id: Any, method: str) -> None:
        if method == "initialize":
            self.ready = True
        if not self.ready:
            self.send(id=id, error={"code": -32602, "message": "Invalid request parameters", "data": ""})
        else:
            super().answer(id, method)


if __name__ == "__main__":
    Server().run()
