"""A modern server's own request state, which only the instance that it came from can take. Pure.

A server seals its `requestState` with a key of its process, unless it is told another: so the SDK's does by itself. An agent that runs a
command or an object has a process for each instance, and a retry must find the right one. So the state goes out in a box
(`bridge.eras.state`) whose address leads it back, and the server gets the bytes that it wrote. Behind a URL all instances reach one server:
there a state goes out as it is, unless it looks like one of the mesh's, as behind the door of another mesh.

A state may come back more than once, as servers allow by themselves: a client whose answer was lost retries. Whether one is good for a
single use is the server's to say.

Source: MCP 2026-07-28, basic/patterns/mrtr.
"""

import json
from typing import Final

from bridge.eras.edit import find_result, parts
from bridge.eras.shapes import INPUT_REQUIRED
from bridge.eras.state import LONGEST, Claim, Sealer, StateRefused, holder_in
from bridge.eras.words import MAY_ASK
from mesh.errors import TooLarge
from mesh.wire.jsonrpc import Frame, Span, scan

LASTS: Final = 86_400.0
"""Seconds that a box may be opened. How long the state in it is good, the server knows: this must not be what ends it (the SDK's: 600)."""

STATE: Final = "requestState"


class Carrier:
    """For one instance."""

    def __init__(self, sealer: Sealer, *, alone: bool) -> None:
        """`alone`: no other instance of the agent reaches the same server."""
        self._sealer = sealer
        self._alone = alone

    def inward(self, caller: str, frame: Frame, now: float) -> Frame:
        """A request as its server is to get it. Raises StateRefused for a state that was not made for this caller and this request."""
        raw = frame.raw
        if frame.method not in MAY_ASK or (STATE.encode() not in raw and b"\\u00" not in raw):  # keys may be written with escapes
            return frame
        spans = _states_in_request(raw)
        if len(spans) > 1:
            raise StateRefused("it stands twice")
        if not spans or raw[spans[0][0]] != 0x22:
            return frame  # none, or no string: the server knows what to say to that
        state = json.loads(raw[slice(*spans[0])])
        if not self._alone and holder_in(state) is None:
            return frame
        claim = self._sealer.open(state, now)
        claim.check(caller, frame)
        if not claim.state:
            raise StateRefused("of a call that waited here for a server of the handshake era")
        return scan(frame.splice([(spans[0], claim.state)]))

    def outward(self, caller: str, request: Frame, response: Frame, now: float) -> bytes:
        """A response as its client is to get it. Raises TooLarge for a state that would not be taken back."""
        raw = response.raw
        if request.method not in MAY_ASK or (span := _state_in_result(raw)) is None:
            return raw
        own = raw[slice(*span)]
        if not self._alone and holder_in(json.loads(own)) is None:
            return raw
        state = self._sealer.seal(Claim(caller, request.method, request.name or "", state=own), now + LASTS)
        if len(state) > LONGEST:
            raise TooLarge(f"the server's requestState has {len(own)} bytes, and with its seal over {LONGEST} characters")
        return response.splice([(span, b'"%s"' % state.encode())])


def _states_in_request(raw: bytes) -> list[Span]:
    params = next((part for part in parts(raw) if part.key == "params"), None)
    return [] if params is None else [(part.start, part.end) for part in parts(raw, params.start) if part.key == STATE]


def _state_in_result(raw: bytes) -> Span | None:
    """Where the state stands that a result which asks for input brings, if it brings one that is a string."""
    if INPUT_REQUIRED not in raw or (start := find_result(raw)) is None:
        return None
    found = {part.key: part for part in parts(raw, start)}
    kind, state = found.get("resultType"), found.get(STATE)
    if kind is None or state is None or raw[kind.start : kind.end] != INPUT_REQUIRED or raw[state.start] != 0x22:
        return None
    return state.start, state.end
