"""Hosts that use tasks: what one of our own says, and what the SDK's client needs to know of the modern era's, of which it has no types."""

import asyncio
from typing import Any, Literal

import mcp_types
from mcp.client.extension import ClaimContext, ClientExtension, ResultClaim
from pydantic import ConfigDict

from bridge.tasks.words import EXTENSION
from mesh.rpc import CLIENT_CAPABILITIES, MODERN, PROTOCOL_VERSION
from tests.hosts import Host

OVER = ("completed", "failed", "cancelled")
META = {PROTOCOL_VERSION: MODERN, CLIENT_CAPABILITIES: {"extensions": {EXTENSION: {}}}}


async def submit(host: Host, name: str, ttl: int | None = None, token: str | None = None, **arguments: Any) -> str:
    """The id of a task of the handshake era."""
    params = {"name": name, "arguments": arguments, "task": {} if ttl is None else {"ttl": ttl}}
    made = await host.ask("tools/call", params if token is None else {**params, "_meta": {"progressToken": token}})
    assert made["task"]["status"] == "working", made
    return str(made["task"]["taskId"])


async def modern(host: Host, method: str, **params: Any) -> Any:
    return await host.ask(method, {**params, "_meta": META})


async def over(host: Host, id: str) -> Any:
    """A task of the modern era, once it is over."""
    while True:
        task = await modern(host, "tasks/get", taskId=id)
        if task["status"] in OVER:
            return task
        await asyncio.sleep(0.05)  # a host polls


class Created(mcp_types.Result):
    result_type: Literal["task"]
    task_id: str


class Named(mcp_types.RequestParams):
    task_id: str


class Get(mcp_types.Request[Named, Literal["tasks/get"]]):
    name_param = "taskId"
    method: Literal["tasks/get"] = "tasks/get"
    params: Named


class Found(mcp_types.Result):
    model_config = ConfigDict(extra="allow")
    status: str


class Tasks(ClientExtension):
    """What a host of the SDK does with tasks: it polls until the result is there."""

    identifier = EXTENSION

    def __init__(self) -> None:
        self.seen: list[str] = []

    def claims(self) -> tuple[ResultClaim[Any], ...]:
        return (ResultClaim(result_type="task", model=Created, resolve=self.resolve),)

    async def resolve(self, created: Created, context: ClaimContext) -> mcp_types.CallToolResult:
        self.seen.append(created.task_id)
        while True:
            found = await context.session.send_request(Get(params=Named(task_id=created.task_id)), Found)
            if found.status in OVER:
                assert found.model_extra is not None
                return mcp_types.CallToolResult.model_validate(found.model_extra["result"])
            await asyncio.sleep(0.1)
