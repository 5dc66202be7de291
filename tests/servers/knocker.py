"""A handshake server that says what it is told to say, whenever it is told: within a call or outside of any.

`notifications/knock` {"text"} has it write that line, outside of any call; the tool `knock` does it within one, and answers at once, or
with `until` once an answer with that id has come. The tool `heard` gives back every message that came, but for its own calls; with
`method` those of one method, once there are `count` of them (answers have the method null).
"""

import json
import threading
from typing import Any

from tests.servers import handshake


class Server(handshake.Server):
    tools: Any = (*handshake.Server.tools, "knock", "heard")

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Any] = []

    def take(self, line: bytes) -> None:
        message = json.loads(line)
        if message.get("params", {}).get("name") != "heard":
            with self.changed:
                self.heard.append(message)
                self.changed.notify_all()
        if message.get("method") == "notifications/knock":
            self.write(message["params"]["text"].encode())
        super().take(line)

    def answer(self, id: Any, method: str) -> None:
        if method == "initialize":
            said = {"tools": {"listChanged": True}, "logging": {}, "resources": {"subscribe": True, "listChanged": True}}
            self.ready = True
            result = {"protocolVersion": "2025-11-25", "capabilities": said, "serverInfo": {"name": "knocker", "version": "1"}}
            self.send(id=id, result=result)
        elif method in ("logging/setLevel", "resources/subscribe", "resources/unsubscribe"):
            params = self.heard[-1]["params"]
            if params.get("uri") == "memo://none":
                self.send(id=id, error={"code": -32002, "message": "Resource not found"})
            else:
                self.send(id=id, result={"_meta": {"for": params}})
        elif method == "resources/list":
            self.send(id=id, result={"resources": []})
        else:
            super().answer(id, method)

    def call(self, id: Any, params: dict[str, Any], line: bytes) -> None:
        arguments = params.get("arguments", {})
        match params["name"]:
            case "knock":
                self.write(arguments["text"].encode())
                if "until" in arguments:
                    threading.Thread(target=self.until, args=(id, arguments["until"]), daemon=True).start()
                else:
                    self.finish(id, "knocked")
            case "heard":
                threading.Thread(target=self.tell, args=(id, arguments), daemon=True).start()
            case _:
                super().call(id, params, line)

    def found(self, arguments: dict[str, Any]) -> list[Any]:
        return [each for each in self.heard if "method" not in arguments or each.get("method") == arguments["method"]]

    def tell(self, id: Any, arguments: dict[str, Any]) -> None:
        with self.changed:
            self.changed.wait_for(lambda: len(self.found(arguments)) >= arguments.get("count", 0), 5)
            self.finish(id, json.dumps(self.found(arguments)))

    def until(self, id: Any, asked: Any) -> None:
        with self.changed:
            self.changed.wait_for(lambda: any("method" not in each and each["id"] == asked for each in self.heard), 20)
            found = [each for each in self.heard if "method" not in each and each["id"] == asked]
        self.finish(id, json.dumps(found))


if __name__ == "__main__":
    Server().run()
