"""The checks of `mesh doctor` that ask a running mesh: broker, its settings, topology, control plane, agents, journal."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from mesh import admin
from mesh.audit.journal import Journal
from mesh.cli.checks import Check, fail, failed, ok, warn
from mesh.cli.render import age
from mesh.errors import BrokerUnavailable, MeshError, NotAdmitted
from mesh.link.address import hosts, is_loopback, without_userinfo
from mesh.link.jetstream import JetStream
from mesh.link.reconcile import read_actual
from mesh.link.server_log import loss_in, tail
from mesh.link.server_program import monitor_page
from mesh.link.state_dir import StateDir
from mesh.node import Mesh
from mesh.settings import Settings, read_runtime
from mesh.subjects import CONTROL_PLANE
from mesh.topology import Kind, declare, plan

JOURNAL_SECONDS: Final = 60.0
"""For reading the whole journal, which may hold a million messages."""

LOG_LINES: Final = 10_000
"""Of the broker's log that are looked through for what it dropped."""


async def live(settings: Settings) -> AsyncIterator[Check]:
    """All checks of a running mesh. Where none is said to run there is nothing to check, and `checks.mesh_here` has said so."""
    try:
        url = settings.broker_url()
    except MeshError:
        return
    try:
        mesh = await Mesh(settings=settings).__aenter__()
    except MeshError as error:
        yield _unreachable(url, error, settings)
        return
    try:
        yield ok("broker", f"nats-server {mesh.connection.server_version} with JetStream at {without_userinfo(url)}")
        if not (mesh.connection.secure or all(map(_here, hosts(url)))):
            yield warn("TLS", "what is said to the broker travels in the clear", "let it listen with TLS, and name it tls://…")
        async for check in _server(settings):
            yield check
        yield await _topology(mesh)
        async for check in _present(mesh):
            yield check
        yield await _journal(mesh)
        if settings.broker is None:
            yield _dropped(settings.state_dir)
    finally:
        await mesh.__aexit__(None, None, None)


def _unreachable(url: str, error: MeshError, settings: Settings) -> Check:
    if isinstance(error, BrokerUnavailable) and not isinstance(error, NotAdmitted) and settings.broker is None:
        said = f"nothing answers at {without_userinfo(url)}: {error.message}"
        return fail("broker", said, "the mesh that ran here was killed: start `mesh up` again")
    return failed("broker", error)


async def _server(settings: Settings) -> AsyncIterator[Check]:
    """What the server itself says: of the settings that the mesh relies on, and of who reaches it."""
    name = "broker's settings"
    conf = "use nats-server.conf of this project, or take over its `feature_flags` block"
    try:
        monitor = "" if settings.broker is not None else str(read_runtime(settings.state_dir).get("monitor", ""))
        if not monitor:
            yield warn(name, "unknown: the address of its monitoring is not known here", f"see that js_ack_fc_v2 is false there: {conf}")
            return
        said = await asyncio.to_thread(monitor_page, monitor, "/varz", 5.0)
    except BrokerUnavailable as error:
        yield warn(name, error.message, f"see that js_ack_fc_v2 is false there: {conf}")
        return
    flags = said.get("feature_flags") or {}
    if flags.get("js_ack_fc_v2") is not False:
        yield fail(name, "js_ack_fc_v2 is not pinned to false", conf)
    else:
        yield ok(name, f"js_ack_fc_v2 is off, max_payload {said.get('max_payload')}")
    if listeners := in_the_clear(said):
        what = f"it listens beyond this machine without TLS: {', '.join(listeners)}"
        yield fail("broker's listeners", what, "`mesh auth tls`, then `mesh up --listen`; or the tls block of nats-server.conf")


def in_the_clear(varz: dict[str, Any]) -> list[str]:
    """The listeners that others reach without TLS, as the server says it of itself."""
    socket = varz.get("websocket") or {}
    found = {
        f"clients on {varz.get('host')}": _here(str(varz.get("host", ""))) or varz.get("tls_required"),
        f"WebSocket on {socket.get('host')}": not socket.get("port") or _here(str(socket.get("host", ""))) or not socket.get("no_tls"),
        f"monitoring on {varz.get('http_host')}": not varz.get("http_port") or _here(str(varz.get("http_host", ""))),
    }
    return [where for where, good in found.items() if not good]


def _here(host: str) -> bool:
    """Whether only this machine is reached there; of a name that is not said."""
    try:
        return is_loopback(host)
    except MeshError:
        return False


async def _topology(mesh: Mesh) -> Check:
    name = "topology"
    declared = declare(mesh.settings.prefix)
    try:
        actions = plan(declared, await read_actual(JetStream(mesh.connection), declared))
    except MeshError as error:
        return failed(name, error)
    stuck = [action for action in actions if action.kind is Kind.CONFLICT]
    if stuck:
        return fail(name, f"{', '.join(action.name for action in stuck)}: not as declared", "; ".join(action.advice for action in stuck))
    drift = [f"{action.kind.value} {action.name}" for action in actions if action.kind in (Kind.CREATE, Kind.UPDATE)]
    if drift:
        return fail(name, f"the broker is not as declared: {', '.join(drift)}", "mesh topology plan, then mesh topology apply")
    return ok(name, f"{len(declared.all_streams())} streams and buckets as declared")


async def _present(mesh: Mesh) -> AsyncIterator[Check]:
    """The control plane, and each agent."""
    try:
        async with mesh.directory() as directory:
            views = admin.agents(directory, everything=True)
    except MeshError as error:
        yield failed("registry", error)
        return
    plane = [view for view in views if view.name == CONTROL_PLANE and view.healthy]
    if plane:
        yield ok("control plane", f"{len(plane[0].instances)} running, version {plane[0].version}")
    else:
        yield fail("control plane", "none runs: who dies is not noticed, and nobody new is let in", "start `mesh up`")
    agents = [view for view in views if view.name != CONTROL_PLANE]
    if not agents:
        yield warn("agents", "nobody is here", "mesh up FILE, or mesh-bridge serve NAME -- COMMAND")
    for view in agents:
        yield check_agent(view)


def check_agent(view: admin.AgentView) -> Check:
    name = f"agent {view.name}"
    well = sum(each.healthy for each in view.instances)
    said = f"{well} of {len(view.instances)} instances healthy, {view.tools} tools"
    log = "mesh.log in the state directory says why"
    if not view.instances:
        last = view.last_lost
        said = f"{len(view.lost)} lost within the hour, the last {age(last.ago)} ago: {last.reason}" if last is not None else "no instance"
        if not view.serves:
            return warn(name, f"{said}; no server, so nobody waits for it", "nothing: it is forgotten within the hour")
        return fail(name, said, "start it again, or leave it: it is forgotten within the hour")
    if not well:
        return fail(name, f"{said}: its server does not run", log)
    if well < len(view.instances):
        return warn(name, said, log)
    if view.lost:
        return warn(name, f"{said}; lost within the hour: {len(view.lost)}", f"mesh agents shows why; {log}")
    return ok(name, said)


async def _journal(mesh: Mesh) -> Check:
    name = "journal"
    try:
        async with asyncio.timeout(JOURNAL_SECONDS):
            found = await Journal(mesh.connection, mesh.subjects, mesh.readers.of_stream).check()
    except TimeoutError:
        return warn(name, f"reading all of it takes longer than {JOURNAL_SECONDS:g} s", "mesh journal check")
    except MeshError as error:
        return failed(name, error)
    said = f"{found.calls} calls, {found.messages} messages, {found.fullness:.0%} full"
    if found.missing:
        return fail(name, f"{said}; {found.missing_calls} calls were not recorded", "mesh journal check says which")
    if found.suspects:
        return fail(name, f"{said}; {found.suspects} messages that no receiver would take", "mesh journal check says which")
    if found.skipped:
        return warn(name, f"{said}; {found.skipped} messages were deleted", "mesh journal check")
    if found.near_bounds:
        return warn(name, f"{said}: its oldest calls go next", "save what has to be kept: mesh journal --json > FILE")
    return ok(name, said)


def _dropped(state_dir: Path) -> Check:
    """What the broker says in its log, and nowhere else, that it dropped."""
    lost: list[Any] = [said for line in tail(StateDir(state_dir).broker_log, LOG_LINES) if (said := loss_in(line))]
    if lost:
        return warn(
            "broker's log",
            f"{len(lost)} times it dropped what it had taken, last: {lost[-1]}",
            "fewer calls at once, or a larger max_buffered_msgs",
        )
    return ok("broker's log", "nothing was dropped")
