"""Its tool `slow` says that a second run changes nothing more; the others say nothing."""

from typing import Any

from tests.servers import echo


class Server(echo.Server):
    def send(self, **message: Any) -> None:
        for tool in message.get("result", {}).get("tools", ()):
            if tool["name"] == "slow":
                tool["annotations"] = {"idempotentHint": True}
        super().send(**message)


if __name__ == "__main__":
    Server().run()
