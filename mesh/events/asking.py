"""What events need of the control plane, which may be on its way to the broker when it is asked.

It makes the consumers of subscriptions and the readers of replays and schemas. A participant that starts with the mesh, or comes back with
it after a restart of the broker, is often there a moment earlier. So nobody answering is no refusal yet: it is asked again for a while.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from mesh.clock import monotonic
from mesh.delivery import Participant
from mesh.errors import BrokerUnavailable, ConfigError, NoSuchAgent, NotAdmitted, RemoteError
from mesh.subjects import CONTROL_PLANE

T = TypeVar("T")

ASK_SECONDS: Final = 5.0
"""For the control plane to make or find a subscription, which takes it milliseconds."""

THERE_SECONDS: Final = 5.0
"""For the control plane to come. After a restart of the broker everybody is back in one to three seconds."""

_FIRST_DELAY: Final = 0.05
_LONGEST_DELAY: Final = 0.5


async def when_there(ask: Callable[[], Awaitable[T]]) -> T:
    """What `ask()` gives; while neither control plane nor broker is there it is asked again, for `THERE_SECONDS`. Raises what it raises."""
    until, delay = monotonic() + THERE_SECONDS, _FIRST_DELAY
    while True:
        try:
            return await ask()
        except (NoSuchAgent, BrokerUnavailable) as problem:
            if isinstance(problem, NotAdmitted) or monotonic() + delay > until:
                raise
        await asyncio.sleep(delay)
        delay = min(_LONGEST_DELAY, delay * 2)


class Asking:
    """Asks the control plane for one participant."""

    def __init__(self, me: Participant) -> None:
        self._ask = me.ask

    async def __call__(self, method: str, params: Mapping[str, Any], seconds: float = ASK_SECONDS) -> dict[str, Any]:
        """Its answer. Raises ConfigError where it says that what was asked makes no sense, else as `Mesh.request`."""
        try:
            return await when_there(partial(self._ask, CONTROL_PLANE, method, params, timeout=seconds))
        except RemoteError as problem:
            said = problem.data if isinstance(problem.data, dict) else {}
            if said.get("mesh") != ConfigError.code:
                raise
            raise ConfigError(problem.message, hint=str(said.get("hint", ""))) from None
