"""Prints on stdout between its messages, as a forgotten `print` does: text, half JSON, batches, numbers, blank lines."""

from typing import Any

from tests.servers import echo

NOISE = b'starting up\n\n{"half":\n[{"jsonrpc":"2.0","id":1,"result":{}}]\n5\nnull\n{"jsonrpc":"2.0","id":true,"result":{}}\n\xff\xfe'


class Server(echo.Server):
    def write(self, raw: bytes) -> None:
        super().write(NOISE + b"\n" + raw + b"\r\n" + NOISE)

    def answer(self, id: Any, method: str) -> None:
        self.send(id="of nobody", result={})
        super().answer(id, method)


if __name__ == "__main__":
    Server().run()
