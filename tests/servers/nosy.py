"""A handshake server that asks back, in bytes that no parser and printer would leave as they are; and asks for the roots at once."""

import json
import os
import threading
from typing import Any

from tests.servers import handshake

PRECIOUS = '{"n":123456789012345678901234567890,"x":1E400,"x":-0.0,"s":"\\ud800","nothing":null,  "deep":[[[]]]}'


class Server(handshake.Server):
    tools: Any = ("echo", "pid", "slow", "ask", "ask_and_die")

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[Any, str] = {}
        self.asked = 0
        self.can: dict[str, Any] = {}

    def take(self, line: bytes) -> None:
        message = json.loads(line)
        if "method" not in message:
            with self.changed:
                self.answers[message["id"]] = line.decode()
                self.changed.notify_all()
            return
        if message["method"] == "initialize":
            self.can = message["params"]["capabilities"]
            if "roots" in self.can:
                self.tools = (*self.tools, "only_with_roots")
        super().take(line)
        if message["method"] == "notifications/initialized" and "roots" in self.can:
            self.send(id="early", method="roots/list")

    def call(self, id: Any, params: dict[str, Any], line: bytes) -> None:
        match params["name"]:
            case "ask":
                threading.Thread(target=self.ask, args=(id,), daemon=True).start()
            case "ask_and_die":
                self.question()
                threading.Timer(0.3, os._exit, (7,)).start()
            case "only_with_roots":
                threading.Thread(target=self.tell_roots, args=(id,), daemon=True).start()
            case _:
                super().call(id, params, line)

    def tell_roots(self, id: Any) -> None:
        with self.changed:
            self.changed.wait_for(lambda: "early" in self.answers, 10)
        self.finish(id, self.answers.get("early", "nobody answered"))

    def question(self) -> int:
        self.asked += 1
        text = f'{{"jsonrpc":"2.0","id":{self.asked},"method":"elicitation/create","params":{{"message":"{os.getpid()}","x":{PRECIOUS}}}}}'
        self.write(text.encode())
        return self.asked

    def ask(self, id: Any) -> None:
        asked = self.question()
        with self.changed:
            self.changed.wait_for(lambda: asked in self.answers or id in self.cancelled, 10)
        if asked in self.answers:
            self.finish(id, self.answers[asked])


if __name__ == "__main__":
    Server().run()
