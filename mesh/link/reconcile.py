"""Makes a broker have the declared topology: reads what it has, applies a plan, and checks the result against the server's own echo.

Traps answered:

- An older server ignores the settings that it does not know, and says that all is well. So each echo is compared with what was
  asked for, and what is missing stops the start, with the setting named.
- STREAM.LIST answers in pages of 256. All are read.
- When its last stream is deleted the server removes their directory a moment later, and a stream that is created in that moment fails
  (3 of some 1,200 here). It is tried again.
- Several control planes may do this at once. Creating what is there with the same settings succeeds, so the second one changes
  nothing.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from mesh.errors import ApiError, BrokerUnsuitable
from mesh.link.jetstream import CONSUMER_NOT_FOUND, STORE_NOT_MADE, STREAM_NOT_FOUND, JetStream
from mesh.topology import Action, Actual, ConsumerSpec, Kind, StreamSpec, Topology, differences, plan


async def reconcile(js: JetStream, declared: Topology, *, prune: bool = False) -> tuple[Action, ...]:
    """Plan and apply. Returns the plan as it was carried out.

    Raises BrokerUnsuitable for a conflict and for a setting that the server ignores, ApiError where it refuses.
    """
    actions = plan(declared, await read_actual(js, declared), prune=prune)
    await apply(js, actions)
    return actions


async def read_actual(js: JetStream, declared: Topology) -> Actual:
    """What the broker has: all of its streams, and of the consumers those that are declared (the others come and go)."""
    streams: dict[str, Mapping[str, Any]] = {}
    while True:
        page = await js.api("STREAM.LIST", {"offset": len(streams)})
        found = page.get("streams") or []
        streams |= {stream["config"]["name"]: stream["config"] for stream in found}
        if not found or len(streams) >= page["total"]:
            break
    consumers: dict[tuple[str, str], Mapping[str, Any]] = {}
    for spec in declared.consumers:
        try:
            consumers[spec.stream, spec.name] = (await js.api(f"CONSUMER.INFO.{spec.stream}.{spec.name}"))["config"]
        except ApiError as error:
            if error.err_code not in (CONSUMER_NOT_FOUND, STREAM_NOT_FOUND):
                raise
    return Actual(streams, consumers)


async def apply(js: JetStream, actions: Iterable[Action]) -> None:
    """Carry out a plan. A conflict anywhere in it is raised before anything is done."""
    actions = tuple(actions)
    for action in actions:
        if action.kind is Kind.CONFLICT:
            settings = ", ".join(f"{d.setting} is {d.actual!r}, declared {d.declared!r}" for d in action.differences)
            raise BrokerUnsuitable(f"{action.name} on the broker is not as declared: {settings}", hint=action.advice)
    for action in actions:
        if action.kind is Kind.DELETE:
            await js.api(f"STREAM.DELETE.{action.name}")
        elif action.kind in (Kind.CREATE, Kind.UPDATE) and action.spec is not None:
            await ensure(js, action.spec, update=action.kind is Kind.UPDATE)


async def ensure(js: JetStream, spec: StreamSpec | ConsumerSpec, *, update: bool = False) -> dict[str, Any]:
    """Create (or update) one stream or consumer, and compare the echo. Returns the server's answer.

    Raises BrokerUnsuitable where the server ignored a setting.
    """
    if isinstance(spec, StreamSpec):
        answer = await _put_stream(js, spec, "UPDATE" if update else "CREATE")
    else:
        body = {"stream_name": spec.stream, "config": spec.config(), "action": "update" if update else "create"}
        answer = await js.api(f"CONSUMER.CREATE.{spec.stream}.{spec.name}", body)
    ignored = differences(spec, answer["config"])
    if ignored:
        raise BrokerUnsuitable(
            f"nats-server {js.connection.server_version} ignores settings of {spec.name}: {', '.join(d.setting for d in ignored)}",
            hint="the mesh relies on them; run a newer nats-server",
            ignored={d.setting: {"asked": d.declared, "got": d.actual} for d in ignored},
        )
    return answer


async def _put_stream(js: JetStream, spec: StreamSpec, verb: str) -> dict[str, Any]:
    for delay in (0.05, 0.2, 0.5):
        try:
            return await js.api(f"STREAM.{verb}.{spec.name}", spec.config())
        except ApiError as error:
            if error.err_code != STORE_NOT_MADE:
                raise
        await asyncio.sleep(delay)
    return await js.api(f"STREAM.{verb}.{spec.name}", spec.config())
