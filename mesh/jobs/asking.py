"""Asking the control plane about jobs, and which of its answers are worth another question."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mesh.errors import BrokerError, CallError, Denied, Disconnected, MalformedMessage, MeshError, NoSuchJob, RemoteError
from mesh.subjects import CONTROL_PLANE
from mesh.wire.control import MESH_ERROR

ASK_SECONDS: Final = 5.0
"""For the control plane to answer, which takes it milliseconds."""

FIRST_DELAY: Final = 0.2
LONGEST_DELAY: Final = 10.0
"""Seconds between two tries to have the broker, or the control plane, answer."""

Asks = Callable[[str, Mapping[str, Any]], Awaitable[dict[str, Any]]]
"""`mesh/jobs/{what}`, with params. Raises NoSuchJob, and what a call raises."""


def asks(ask: Callable[..., Awaitable[dict[str, Any]]]) -> Asks:
    """`ask` is `Mesh.request`."""

    async def asked(what: str, params: Mapping[str, Any]) -> dict[str, Any]:
        try:
            return await ask(CONTROL_PLANE, f"mesh/jobs/{what}", params, timeout=ASK_SECONDS)
        except RemoteError as error:
            if isinstance(error.data, dict) and error.data.get("mesh") == NoSuchJob.code:
                raise NoSuchJob(error.message, hint=str(error.data.get("hint", ""))) from None
            raise

    return asked


def passing(problem: MeshError) -> bool:
    """Whether the same question may be answered a little later: nobody answers now, or who does has trouble with the broker itself."""
    if isinstance(problem, RemoteError):
        return problem.rpc_code == MESH_ERROR
    return isinstance(problem, BrokerError | CallError | MalformedMessage) and not isinstance(problem, NoSuchJob | Denied | Disconnected)
