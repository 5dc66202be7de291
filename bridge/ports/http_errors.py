"""What went wrong over HTTP, as errors of the bridge and as the error response that the caller gets.

CallError
├── ServerRefused   the server, or a gateway before it, answered with an HTTP error   server_refused
└── BadAnswer       what came back is no answer to the request                        bad_answer

An HTTP error that says "not this" (400, 404, 405, …) carries a code of JSON-RPC's own, as the SDK's client reports it: who asks whether a
server speaks the modern era gets that answer from many servers of the older one, and goes on to `initialize`. All else carries the mesh's
code.
"""

from collections.abc import Mapping
from typing import Any, Final

import httpx2

from bridge.errors import ServerDied, ServerUnreachable
from mesh.errors import Busy, CallError, MeshError, Refused
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, error, scan

LONGEST_RETRY_AFTER: Final = 3600.0
"""Seconds that a server's `Retry-After` is believed."""

_NO_ANSWER: Final = "it may have run; call again if that does no harm"


class ServerRefused(CallError):
    """The server, or a gateway before it, answered with an HTTP error. `details["status"]` is HTTP's."""

    code = "server_refused"


class BadAnswer(CallError):
    """What came back is no answer to the request. Whether the call had an effect is not known."""

    code = "bad_answer"


def response(name: str, id: bytes, problem: MeshError) -> Frame:
    """The error response of the server `name` for the request whose id is the JSON text `id`."""
    message = problem.message if problem.message.startswith(name + ":") else f"{name}: {problem.message}"
    details = {key: value.decode("utf-8", "replace") if isinstance(value, bytes) else value for key, value in problem.details.items()}
    data = {"mesh": problem.code, **({"hint": problem.hint} if problem.hint else {}), **details}
    return scan(error(id, _rpc_code(problem), message, data))


def with_id(answer: Frame, id: bytes) -> Frame:
    """An error response whose server could not tell the id (null, or none at all), with the id that it answers."""
    if answer.id_span is not None:
        return scan(answer.splice([(answer.id_span, id)]))
    at = answer.raw.index(b"{") + 1
    return scan(answer.splice([((at, at), b'"id":' + id + b",")]))


def of_transport(name: str, where: str, problem: httpx2.HTTPError) -> MeshError:
    """A connection that could not be made, or that broke. The two differ in what they may have done at the server."""
    why = _reason(problem)
    if isinstance(problem, httpx2.ConnectError | httpx2.ConnectTimeout):
        return unreachable(name, where, why)
    if isinstance(problem, httpx2.PoolTimeout):
        return Busy(f"{name}: every connection to {where} is taken", retry_after=1.0)
    if isinstance(problem, httpx2.LocalProtocolError):
        return Refused(f"{name}: the request cannot be written as HTTP: {why}")
    return ServerDied(f"{name}: the connection to {where} broke while the server held the call: {why}", hint=_NO_ANSWER)


def unreachable(name: str, where: str, why: str) -> ServerUnreachable:
    return ServerUnreachable(f"{name}: cannot connect to {where}: {why}", hint="is the server running, and is its URL right?")


def cut_off(name: str, why: str = "the stream ended before the answer came") -> ServerDied:
    return ServerDied(f"{name}: {why}", hint=_NO_ANSWER)


def of_status(name: str, status: int, headers: Mapping[str, str], body: bytes) -> MeshError:
    """An HTTP answer that is no success and has no JSON-RPC error in it."""
    starts = " ".join(body[:300].decode("utf-8", "replace").split())
    said: dict[str, Any] = {"status": status, **({"starts": starts} if starts else {})}
    if status == 429 or (status == 503 and "retry-after" in headers):
        return Busy(f"{name}: the server has no room now: HTTP {status}", retry_after=_retry_after(headers), **said)
    if status in (401, 403, 407):
        hint = "give the server's credentials as headers of this agent"
        return ServerRefused(f"{name}: the server lets us not in: HTTP {status}", hint=hint, **said)
    if 300 <= status < 400:
        where = headers.get("location", "").partition("?")[0]  # what follows may be a secret
        return ServerRefused(f"{name}: the server sends us elsewhere: HTTP {status}", hint="give the URL itself", location=where, **said)
    hint = "is the path of the URL right?" if status in (404, 405) else ""
    return ServerRefused(f"{name}: the server answered with HTTP {status}", hint=hint, **said)


def _rpc_code(problem: MeshError) -> int:
    status = problem.details.get("status", 0) if isinstance(problem, ServerRefused) else 0
    if status in (404, 405):
        return control.METHOD_NOT_FOUND
    return control.INTERNAL_ERROR if 400 <= status < 500 and status not in (401, 403, 407) else control.MESH_ERROR


def _retry_after(headers: Mapping[str, str]) -> float:
    value = headers.get("retry-after", "")
    return min(float(value), LONGEST_RETRY_AFTER) if value.isascii() and value.isdigit() else 1.0


def _reason(problem: BaseException) -> str:
    """The cause in a few words. The libraries wrap it two or three times, and the system's own error at the bottom says the most."""
    chain = [problem]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None and inner not in chain:
        chain.append(inner)
    for cause in reversed(chain):
        if isinstance(cause, OSError) and not isinstance(cause, TimeoutError):
            return cause.strerror or str(cause)
    return str(problem) or type(problem).__name__
