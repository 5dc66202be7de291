"""Has a tool whose schema holds a number of 5,000 digits, which Python does not read without being asked to."""

from typing import Any

from tests.servers import echo


class Server(echo.Server):
    def answer(self, id: Any, method: str) -> None:
        if method == "tools/list":
            schema = b'{"type":"object","maximum":' + b"9" * 5000 + b"}"
            tool = b'{"name":"pid","inputSchema":' + schema + b"}"
            said = b'"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":[' + tool + b"]"
            self.write(b'{"jsonrpc":"2.0","id":"' + str(id).encode() + b'","result":{' + said + b"}}")
        else:
            super().answer(id, method)


if __name__ == "__main__":
    Server().run()
