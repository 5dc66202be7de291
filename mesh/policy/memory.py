"""What a serving instance remembers of the exchanges it took: so that none runs twice, and a lost reply can be sent again.

Pure: times are handed in. Two bounds hold the memory: frames are kept for `KEEP_FRAME` seconds and `MOST_BYTES`, ids for `KEEP_ID` seconds and `MOST_IDS`.
Where a bound cut something off early, the memory says so (`FORGOTTEN`), so that nobody takes "I do not know it" for "it never ran".
"""

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

KEEP_FRAME: Final = 30.0
KEEP_ID: Final = 120.0
MOST_BYTES: Final = 16 * 1024 * 1024
MOST_IDS: Final = 50_000


class Fate(Enum):
    """What is known of an exchange."""

    NEW = "new"
    RUNNING = "running"
    FORGOTTEN = "forgotten"


@dataclass(slots=True, eq=False)
class Peer:
    """What is remembered of one connection of one caller."""

    caller: str
    connection: str
    ids: dict[str, "bytes | Fate"] = field(default_factory=dict)
    """Exchange token → RUNNING, the final frame, or FORGOTTEN when the frame is no longer kept."""
    cut_until: float = 0.0
    """Until then an id that is not in `ids` may have been dropped by a bound."""


class Memory:
    """Exchanges by peer, where a peer is a reply subject less its last token."""

    def __init__(self, *, most_bytes: int = MOST_BYTES, most_ids: int = MOST_IDS) -> None:
        self.peers: dict[str, Peer] = {}
        self._most_bytes = most_bytes
        self._most_ids = most_ids
        self._bytes = 0
        self._frames: deque[tuple[float, Peer, str]] = deque()
        self._ids: deque[tuple[float, Peer, str]] = deque()

    def finish(self, peer: Peer, exchange: str, frame: bytes, now: float) -> None:
        """Keep the final frame of an exchange."""
        peer.ids[exchange] = frame
        self._bytes += len(frame)
        entry = (now, peer, exchange)
        self._frames.append(entry)
        self._ids.append(entry)
        if self._bytes > self._most_bytes or len(self._ids) > self._most_ids:
            self._trim(now)

    def fate(self, peer: Peer | None, exchange: str, now: float) -> "bytes | Fate":
        """The final frame, or RUNNING, FORGOTTEN (it ran, or may have), or NEW (it never ran here)."""
        if peer is None:
            return Fate.NEW
        found = peer.ids.get(exchange)
        if found is not None:
            return found
        return Fate.FORGOTTEN if now < peer.cut_until else Fate.NEW

    def expire(self, now: float) -> None:
        """Drop what is too old. Call about once a second."""
        while self._frames and self._frames[0][0] < now - KEEP_FRAME:
            self._drop_frame()
        while self._ids and self._ids[0][0] < now - KEEP_ID:
            _, peer, exchange = self._ids.popleft()
            peer.ids.pop(exchange, None)
        if len(self.peers) > 64:
            for key in [key for key, peer in self.peers.items() if not peer.ids and now >= peer.cut_until]:
                del self.peers[key]

    def _trim(self, now: float) -> None:
        while self._bytes > self._most_bytes and self._frames:
            self._drop_frame()
        while len(self._ids) > self._most_ids:
            ended, peer, exchange = self._ids.popleft()
            if self._frames and self._frames[0][2] == exchange and self._frames[0][1] is peer:
                self._drop_frame()
            peer.ids.pop(exchange, None)
            peer.cut_until = max(peer.cut_until, ended + KEEP_ID)

    def _drop_frame(self) -> None:
        _, peer, exchange = self._frames.popleft()
        frame = peer.ids.get(exchange)
        if isinstance(frame, bytes):
            self._bytes -= len(frame)
            peer.ids[exchange] = Fate.FORGOTTEN
