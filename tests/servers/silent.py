"""Says what it is, and then never answers a call, nor reads any more."""

import threading
from typing import Any

from tests.servers import echo


class Server(echo.Server):
    def call(self, id: Any, params: dict[str, Any], line: bytes) -> None:
        threading.Event().wait()


if __name__ == "__main__":
    Server().run()
