"""What `mesh up` keeps running, and in which order: broker, control plane, HTTP front, agents. It ends in the reverse order.

Agents leave first, so that no call arrives while things end; the control plane sees them leave; and the broker ends last, with
everything stored. The state directory is locked all the time, with a broker of our own or without.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from difflib import get_close_matches
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Protocol

from mesh import admin, clock
from mesh.background import end_tasks
from mesh.cli import logging
from mesh.errors import ConfigError
from mesh.identity.authority import Authority
from mesh.identity.finding import provide
from mesh.identity.keeper import Keeper
from mesh.identity.serving import claim_streams, server_trust
from mesh.identity.tls import Certificates
from mesh.link.address import is_loopback, without_userinfo
from mesh.link.server import EmbeddedServer
from mesh.link.state_dir import StateDir
from mesh.link.tls import ServerTls
from mesh.node import VERSION, Mesh
from mesh.policy.rights import Policy
from mesh.registry.directory import Directory
from mesh.settings import RUNTIME_FILE, Settings, write_runtime
from mesh.subjects import CONTROL_PLANE, GATEWAY, OPERATOR

AGAIN: Final = 0.02
"""Seconds until an agent that is ready and not yet seen is looked for again."""


@dataclass(frozen=True, slots=True)
class Ports:
    """How the broker listens. Ports: None takes what nats-server.conf says, 0 a free one."""

    broker: int | None = None
    monitor: int | None = None
    websocket: int | None = None
    address: str | None = None
    """Instead of loopback. Beyond it there is TLS, asked for or not."""
    tls: bool = False
    verify_clients: bool = False
    """Whether clients must show a certificate too. It includes TLS."""

    @property
    def beyond(self) -> bool:
        """Whether others than this machine reach it. Raises ConfigError."""
        return self.address is not None and not is_loopback(self.address)

    def beside(self) -> "Ports":
        """Free ports for what was not said, once the broker's own was: a second mesh on a machine must not stumble over them."""
        if self.broker is None:
            return self
        return replace(self, monitor=self.monitor or 0, websocket=self.websocket or 0)


class Hosted(Protocol):
    """What `bridge.app.host` yields."""

    @property
    def ready(self) -> tuple[str, ...]: ...

    async def wait_all_ready(self) -> None: ...


OnEvent = Callable[[str, str, str], None]
"""`(kind, who, detail)`. Who is an agent, or empty for the broker."""

MakeHost = Callable[[Settings, OnEvent], AbstractAsyncContextManager[Hosted]]

Look = Callable[[], dict[str, Any]]
"""What `/ready` says: `{"ready": bool, …}`."""

MakeFront = Callable[[Settings, Look], AbstractAsyncContextManager[str]]
"""Serves HTTP; yields its address."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a file asks for: its agents, with the roles of each, and what roles may do. Without a policy the one that counts stays."""

    agents: Mapping[str, tuple[str, ...]]
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class House:
    """A mesh that runs. `facts` is what `mesh.json` says; `directory` who is there."""

    facts: dict[str, Any]
    state: StateDir
    directory: Directory
    hosted: Hosted

    async def wait_all_there(self, names: Sequence[str]) -> None:
        """Wait until every agent is ready and the broker has a heartbeat of it. As long as it takes."""
        while True:
            await self.hosted.wait_all_ready()
            if all(map(self.directory.instances_of, names)):
                return
            await asyncio.sleep(AGAIN)  # it went again meanwhile, and its events say why; or the heartbeat is on its way


@asynccontextmanager
async def running(
    settings: Settings, ports: Ports, make_host: MakeHost, make_front: MakeFront | None, plan: Plan, on_event: OnEvent
) -> AsyncIterator[House]:
    """Start everything; yields once each agent came up or failed to. Raises BrokerError, ConfigError."""
    async with AsyncExitStack() as stack:
        state, facts = await _broker(stack, settings, ports, plan, on_event)
        runtime = state.path / RUNTIME_FILE
        runtime.unlink(missing_ok=True)  # of a mesh that was killed
        logging.configure(file=state.path / logging.LOG_FILE)
        settings = settings.model_copy(update={"state_dir": state.path, **_found(settings, facts)})
        mesh = await stack.enter_async_context(Mesh(settings=settings.model_copy(update={"name": CONTROL_PLANE})))
        if mesh.connection.rights is None:
            on_event("WARNING", "", "it holds nobody to any rights: whoever reaches it may speak in every name, and no role counts")
        plane = await stack.enter_async_context(mesh.control_plane())
        if mesh.connection.rights is not None and not plane.knows_rights:
            on_event("WARNING", "", f"the roles are not in {state.path}: whoever may call anybody is shown who there is, all of them")
        _keep_identities(stack, settings, plan, plane.directory)
        hosted: Hosted | None = None

        def look() -> dict[str, Any]:
            ready = hosted.ready if hosted is not None else ()
            return {"ready": set(plan.agents) <= set(ready), "agents": {name: name in ready for name in plan.agents}}

        if make_front is not None:
            facts["http"] = await stack.enter_async_context(make_front(settings, look))
        stack.callback(runtime.unlink, missing_ok=True)
        write_runtime(state.path, facts)
        hosted = await stack.enter_async_context(make_host(settings, on_event))
        yield House(facts, state, plane.directory, hosted)


def _keep_identities(stack: AsyncExitStack, settings: Settings, plan: Plan, directory: Directory) -> None:
    """Where this machine holds the keys: renew what expires, and let rules that are patterns follow the tools that there are."""
    try:
        authority = Authority.open(settings.state_dir, prefix=settings.prefix)
    except ConfigError:
        return
    if not authority.keyring.has("account.seed"):
        return

    def tools() -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for tool in admin.tools(directory):
            found.setdefault(tool.agent, []).append(tool.name)
        return found

    keeper = Keeper(authority, settings.broker_url(), plan.policy, tools, settings.broker_tls())
    task = asyncio.create_task(keeper.run(), name="keeper of identities")
    stack.push_async_callback(end_tasks, task)


def _identities(settings: Settings, plan: Plan) -> Authority:
    """Everybody who is known beforehand, before the broker starts: then it need not be told of any of them. Who was revoked, or has its key
    elsewhere, is told so when it comes."""
    authority = Authority.open(settings.state_dir, create=True, prefix=settings.prefix)
    if plan.policy is not None:
        authority.apply_policy(plan.policy.resolve({}, lenient=True))
    always = dict.fromkeys((CONTROL_PLANE, OPERATOR, GATEWAY, settings.name))
    for name, roles in {**always, **plan.agents}.items():
        user = authority.known(name)
        if user is None or (user.local and user.revoked is None):
            provide(authority, name, roles)
    return authority


def _misspelled(policy: Policy, plan: Plan) -> Iterator[tuple[str, str]]:
    """Roles and agents of the file that nobody defines, and that look like one that is: such a role is no more than another name to call,
    and a rule on such an agent allows nothing."""
    there = {name for agent, roles in plan.agents.items() for name in (agent, *roles)} - {"agent"}
    for agent, roles in plan.agents.items():
        for role in sorted(set(roles) - policy.roles.keys()):
            for near in get_close_matches(role, policy.roles, n=1):
                yield agent, f"the policy has no role {role!r}, so it only names this agent; did you mean {near!r}?"
    for rules in plan.policy.own if plan.policy is not None else ():
        named = {rule.agent for rule in rules.call} | set(rules.send)
        for name in sorted(each for each in named if each is not None and each not in {*there, *policy.roles, CONTROL_PLANE}):
            for near in get_close_matches(name, there, n=1):
                yield "", f"role {rules.name!r} names {name!r}, and the file has no such agent; did you mean {near!r}?"


async def _broker(
    stack: AsyncExitStack, settings: Settings, ports: Ports, plan: Plan, on_event: OnEvent
) -> tuple[StateDir, dict[str, Any]]:
    """A broker to use, and where it is: our own, or the one that the settings name."""
    from os import getpid

    facts: dict[str, Any] = {"pid": getpid(), "started": clock.iso(clock.wall_ns()), "version": VERSION}
    if settings.broker:
        state = StateDir(Path(settings.state_dir))
        state.acquire()
        stack.callback(state.release)
        return state, {"broker": without_userinfo(settings.broker), **facts}
    ports = ports.beside()
    tls, files = _tls(settings, ports)

    def prepare() -> dict[str, str]:
        authority = _identities(settings, plan)
        for found in claim_streams(authority):
            on_event("store", "", found)
        for agent, problem in _misspelled(authority.policy, plan):
            on_event("note", agent, problem)
        return server_trust(authority)

    server = EmbeddedServer(
        settings.state_dir,
        trust=prepare,
        port=ports.broker,
        monitor_port=ports.monitor,
        websocket_port=ports.websocket,
        host=ports.address,
        tls=tls,
        on_event=lambda kind, detail: on_event(kind, "", detail),
    )
    await stack.enter_async_context(server)
    where = {"broker": server.url, "monitor": server.monitor_url, "websocket": server.websocket_url}
    return server.state_dir, {key: url for key, url in where.items() if url} | files | facts


def _tls(settings: Settings, ports: Ports) -> tuple[ServerTls | None, dict[str, str]]:
    """The broker's certificate, where one is needed, and what `mesh.json` says to those who connect. Raises ConfigError."""
    if not (ports.tls or ports.verify_clients or ports.beyond):
        return None, {}
    certificates = Certificates(settings.state_dir)
    found = certificates.renew_server()
    hint = "`mesh auth tls --host NAME` makes one, for the names and addresses that others reach this machine by."
    if found is None:
        where = f"listens on {ports.address} only with TLS" if ports.beyond else "has no TLS yet"
        raise ConfigError(f"the broker {where}, and there is no certificate in {certificates.path}", hint=hint)
    if found.expired:
        raise ConfigError(f"{found.path} has expired", hint=hint)
    if ports.beyond and ports.address not in found.names and not ip_address(str(ports.address).strip("[]")).is_unspecified:
        raise ConfigError(f"{found.path} is not for {ports.address}, but for {', '.join(found.names)}", hint=hint)
    files = {"ca": str(certificates.ca)} if certificates.authority() else {}
    if ports.verify_clients:
        files["client_cert"] = str(certificates.client(settings.name).path)
    return ServerTls(found.path, certificates.server_key, certificates.ca if ports.verify_clients else None), files


def _found(settings: Settings, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of everybody here: of our own broker as it was started, of another as they are."""
    if settings.broker:
        return {}
    return {"broker": facts["broker"], **{key: Path(facts[key]) for key in ("ca", "client_cert") if key in facts}}
