"""Who there is, and what they are asked for."""

from typing import Final

from mesh.events.subscribing import only

WORKER: Final = "worker"
LISTENER: Final = "listener"
HAND: Final = "hand"
TOOL: Final = "tool"

TOPIC: Final = "work"
NAMED: Final = "ledger"
HEARD: Final = only(LISTENER, NAMED)
"""What the subscription is called where it is to be told from others."""

DEEDS: Final = ("fine",) * 90 + ("flaky",) * 6 + ("fail",) * 2 + ("reject",) * 2
"""What a message asks of its worker: to do it; to fail at the first attempt; at every one; to reject it."""
