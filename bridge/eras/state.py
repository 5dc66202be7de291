"""Request state that leaves the mesh: agent and instance in clear, so that the retry finds its way back, the rest sealed.

    mesh1.{agent}.{instance}.{base64url of nonce and box}

In the box: caller, method, name, until when, and either which waiting call and which round of it, or the state that a modern server made
itself (`bridge.eras.carried`). The key lives as long as the instance: what waits there does not live longer either. That a state is used
once only, the waiting call itself knows, by its round.
"""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Final

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from bridge.eras.edit import find_text
from bridge.eras.words import MAY_ASK
from mesh.errors import Refused
from mesh.subjects import escape, unescape
from mesh.wire.jsonrpc import Frame, dumps

LONGEST: Final = 65_536
"""Characters of a state that are looked at. Those of calls that wait have a few hundred; the rest is for what servers put into theirs."""

_shape: Final = re.compile(r"mesh1\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)").fullmatch


class StateRefused(Exception):
    """A state that is forged, late, or another's. The reason is for the log; the client learns only that it is refused."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a state says."""

    caller: str
    method: str
    name: str
    waiting: str = ""
    """The exchange that began the waiting call."""
    round: int = 0
    state: bytes = b""
    """The JSON text of the state that the server made itself."""

    def check(self, caller: str, frame: Frame) -> None:
        """Raises StateRefused where it was made for another caller or another request than this one."""
        if (self.caller, self.method, self.name) != (caller, frame.method, frame.name or ""):
            raise StateRefused("of another call")


class Sealer:
    """Seals and opens the states of one instance."""

    def __init__(self, agent: str, instance: str, key: bytes | None = None) -> None:
        self._head = f"mesh1.{escape(agent)}.{escape(instance)}."
        self._box = SecretBox(random(SecretBox.KEY_SIZE) if key is None else key)

    def seal(self, claim: Claim, until: float) -> str:
        """`until`: on the clock that `open` is given the time of."""
        said = [self._head, claim.caller, claim.method, claim.name, claim.waiting, claim.round, until]
        plain = dumps(said) + b"\n" + claim.state
        return self._head + base64.urlsafe_b64encode(self._box.encrypt(plain)).rstrip(b"=").decode()

    def open(self, state: str, now: float) -> Claim:
        """Raises StateRefused."""
        if not state.startswith(self._head) or len(state) > LONGEST:
            raise StateRefused("of another instance, or none of ours")
        sealed = state[len(self._head) :]
        try:
            plain = self._box.decrypt(base64.b64decode(sealed + "=" * (-len(sealed) % 4), altchars=b"-_", validate=True))
        except (CryptoError, binascii.Error, ValueError):
            raise StateRefused("it was not sealed here") from None
        said, _, own = plain.partition(b"\n")
        head, caller, method, name, waiting, round, until = json.loads(said)
        if head != self._head:
            raise StateRefused("sealed for another instance")
        if not now < until:
            raise StateRefused("it is too late")
        return Claim(caller, method, name, waiting, round, own)


def holder_in(state: str) -> tuple[str, str] | None:
    """Agent and instance that a request state names; None where a server made it itself."""
    match = _shape(state) if len(state) <= LONGEST else None
    if match is None:
        return None
    try:
        return unescape(match[1]), unescape(match[2])
    except Refused:
        return None


def instance_in(request_state: str) -> str | None:
    """The instance that a request state names; None where a server made it itself."""
    holder = holder_in(request_state)
    return holder[1] if holder is not None else None


def holder_of(frame: Frame) -> tuple[str, str] | None:
    """Agent and instance that a request must go to, because the call that it continues waits there; None for every other request."""
    if frame.method not in MAY_ASK or b'"requestState"' not in frame.raw:
        return None
    state = find_text(frame.raw, "params", "requestState")
    return holder_in(state) if state is not None else None
