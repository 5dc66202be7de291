"""One request on its way through the front."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from bridge.web.guests import Guest
from bridge.web.outlet import HeaderList, Receive, Send
from bridge.web.rules import Headers


@dataclass(slots=True, eq=False)
class Asked:
    """A request: of which agent (None: all of them as one), with which headers, the ways in and out; and who asks, once that is known."""

    agent: str | None
    pairs: list[tuple[bytes, bytes]]
    receive: Receive
    send: Send
    headers: Headers = field(init=False)
    guest: Guest | None = None
    until: float = math.inf
    """When the token expires that it came with, in seconds since 1970."""
    denied: Callable[[], HeaderList] = list
    """What an answer says besides, where the caller may not do what it asks for."""

    @property
    def user(self) -> Guest:
        assert self.guest is not None
        return self.guest

    def __post_init__(self) -> None:
        self.headers = dict(self.pairs)
