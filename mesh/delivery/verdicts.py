"""What a handler raises to say what is to become of what it was given. Anything else that it raises is a failed attempt."""


class Retry(Exception):
    """Try again, after `after` seconds if given, but while its stream still has it. It counts as an attempt."""

    def __init__(self, why: str = "", *, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class Reject(Exception):
    """Never try again: it becomes a dead letter with this reason, and this code."""

    def __init__(self, why: str = "", *, code: str = "rejected") -> None:
        super().__init__(why)
        self.code = code


class AlreadyHandled(Exception):
    """It was done before, as it turned out. Nothing is done, and it ends as done."""
