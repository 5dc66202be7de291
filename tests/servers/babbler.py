"""Writes valid notifications that belong to nobody as fast as it goes."""

from tests.servers import flooder


class Server(flooder.Server):
    def flood(self) -> None:
        flooder.GARBAGE = b'{"jsonrpc":"2.0","method":"notifications/message","params":{"level":"info","data":"babble"}}\n' * 1000
        super().flood()


if __name__ == "__main__":
    Server().run()
