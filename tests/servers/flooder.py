"""Answers as it should once it is asked to begin, and from then on writes garbage on stdout as fast as it goes."""

import sys
import threading
from typing import Any

from tests.servers import echo

GARBAGE = b"".join(b"this is no JSON %d {[ \xff\x00\n" % number for number in range(2000))


class Server(echo.Server):
    def answer(self, id: Any, method: str) -> None:
        super().answer(id, method)
        if method == "tools/list":
            threading.Thread(target=self.flood, daemon=True).start()

    def flood(self) -> None:
        while True:
            with self.lock:
                sys.stdout.buffer.write(GARBAGE)


if __name__ == "__main__":
    Server().run()
