"""What a serving instance remembers of the exchanges it took: so that none runs twice, and a lost reply can be sent again.

Pure: times are handed in. Two bounds hold the memory: frames are kept for `KEEP_FRAME` seconds and `MOST_BYTES`, ids for `KEEP_ID`
seconds and `MOST_IDS`. Where a bound cut something off, the memory says so (`FORGOTTEN`), so that nobody takes "I do not know it"
for "it never ran". A connection counts its exchanges, so everything after the last number that was cut off is still known for sure.
"""

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

KEEP_FRAME: Final = 30.0
KEEP_ID: Final = 120.0
MOST_BYTES: Final = 8 * 1024 * 1024
MOST_IDS: Final = 20_000


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
    quiet: bool = False
    ids: dict[str, "bytes | Fate"] = field(default_factory=dict)
    """Exchange token → RUNNING, the final frame, or FORGOTTEN when the frame is no longer kept."""
    cut: dict[str, int] = field(default_factory=dict)
    """Series of exchange tokens → the highest number that a bound dropped."""
    kept_until: float = 0.0


class Memory:
    """Exchanges by peer, where a peer is a reply subject less its last token."""

    def __init__(self, *, most_bytes: int = MOST_BYTES, most_ids: int = MOST_IDS) -> None:
        self.peers: dict[str, Peer] = {}
        self._of_caller: Counter[str] = Counter()
        self._most_bytes = most_bytes
        self._most_ids = most_ids
        self._bytes = 0
        self._frames: deque[tuple[float, Peer, str]] = deque()
        self._ids: deque[tuple[float, Peer, str]] = deque()

    def peers_of(self, caller: str) -> int:
        return self._of_caller[caller]

    def remember(self, key: str, peer: Peer) -> None:
        """A connection that is not known yet."""
        self.peers[key] = peer
        self._of_caller[peer.caller] += 1

    def begin(self, peer: Peer, exchange: str, now: float) -> None:
        """Note that an exchange runs. Ask `fate` first."""
        peer.ids[exchange] = Fate.RUNNING
        peer.kept_until = now + KEEP_ID

    def finish(self, peer: Peer, exchange: str, frame: bytes, now: float) -> None:
        """Keep the final frame of an exchange."""
        peer.ids[exchange] = frame
        self._bytes += len(frame)
        entry = (now, peer, exchange)
        self._frames.append(entry)
        self._ids.append(entry)
        if self._bytes > self._most_bytes or len(self._ids) > self._most_ids:
            self._trim()

    def fate(self, peer: Peer | None, exchange: str) -> "bytes | Fate":
        """The final frame, or RUNNING, FORGOTTEN (it ran, or may have), or NEW (it never ran here)."""
        if peer is None:
            return Fate.NEW
        found = peer.ids.get(exchange)
        if found is not None:
            return found
        series, number = _place(exchange)
        return Fate.FORGOTTEN if number <= peer.cut.get(series, -1) else Fate.NEW

    def expire(self, now: float) -> None:
        """Drop what is too old. Call about once a second."""
        while self._frames and self._frames[0][0] < now - KEEP_FRAME:
            self._drop_frame()
        while self._ids and self._ids[0][0] < now - KEEP_ID:
            self._drop_id()
        if len(self.peers) > 64:
            for key in [key for key, peer in self.peers.items() if not peer.ids and now >= peer.kept_until]:
                caller = self.peers.pop(key).caller
                self._of_caller[caller] -= 1
                if not self._of_caller[caller]:
                    del self._of_caller[caller]

    def _trim(self) -> None:
        while self._bytes > self._most_bytes and self._frames:
            self._drop_frame()
        while len(self._ids) > self._most_ids:
            if self._frames and self._frames[0] is self._ids[0]:
                self._drop_frame()
            self._drop_id()

    def _drop_id(self) -> None:
        _, peer, exchange = self._ids.popleft()
        peer.ids.pop(exchange, None)
        series, number = _place(exchange)
        peer.cut[series] = max(peer.cut.get(series, -1), number)

    def _drop_frame(self) -> None:
        _, peer, exchange = self._frames.popleft()
        frame = peer.ids.get(exchange)
        if isinstance(frame, bytes):
            self._bytes -= len(frame)
            peer.ids[exchange] = Fate.FORGOTTEN


def _place(exchange: str) -> tuple[str, int]:
    """`17` is number 17 of the series ``; `q17` of `q`, `3-17` of `3-`. A token without a number stands alone."""
    digits = len(exchange) - len(exchange.rstrip("0123456789"))
    if not 0 < digits <= 18:
        return exchange, 0
    return exchange[:-digits], int(exchange[-digits:])
