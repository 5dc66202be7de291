"""What was issued counts at a real server in operator mode: who may connect, what they may do there, and how fast a change does."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error

from mesh import clock
from mesh.crypto.creds import read_credentials
from mesh.errors import BrokerError
from mesh.identity.authority import Authority
from mesh.identity.push import push
from mesh.policy.rights import Permissions, Policy, Role, compile_scope, expand, memberships_of, parse_rule
from tests.helpers import CUT_WARNINGS
from tests.operator_server import operator_server

pytestmark = CUT_WARNINGS

TEAM = Role("team", call=(parse_rule("time/now"),))


class World:
    """A server, its authority, and clients that need not be closed."""

    def __init__(self, authority: Authority, url: str, stack: AsyncExitStack) -> None:
        self.authority, self.url, self.stack = authority, url, stack

    async def push(self) -> None:
        await push(self.authority, self.url)

    async def issue(self, name: str, *roles: str, **options: Any) -> None:
        if self.authority.issue(name, roles, **options).account_changed:
            await self.push()

    async def join(self, name: str, **options: Any) -> "Peer":
        peer = Peer()
        path = self.authority.credentials(name)
        assert path is not None
        peer.client = await nats.connect(
            self.url, user_credentials=str(path), inbox_prefix=f"_INBOX.{name}", connect_timeout=5, max_reconnect_attempts=1,
            error_cb=peer.on_error, closed_cb=peer.on_gone, disconnected_cb=peer.on_gone, **options,
        )  # fmt: skip
        self.stack.push_async_callback(peer.client.close)
        return peer


class Peer:
    """A plain NATS client, and what its server said to it."""

    client: Client

    def __init__(self) -> None:
        self.errors: list[str] = []
        self.changed = asyncio.Event()
        self.gone = asyncio.Event()

    async def on_error(self, error: Exception) -> None:
        self.errors.append(str(error).lower())
        self.changed.set()

    async def on_gone(self) -> None:
        self.gone.set()

    async def rights(self) -> Permissions:
        """The server's own word."""
        answer = await self.client.request("$SYS.REQ.USER.INFO", b"", timeout=5)
        said = json.loads(answer.data)["data"]["permissions"]
        return Permissions(tuple(sorted(said["publish"]["allow"])), tuple(sorted(said["subscribe"]["allow"])))

    async def refused(self, act: Callable[[], Any], subject: str) -> bool:
        """Whether the server refuses something. It says so before it answers what is sent next. (nats-py's PING may overtake a message.)"""
        before = len(self.errors)
        await act()
        await self.rights()
        return any("permissions violation" in each and subject.lower() in each for each in self.errors[before:])

    async def may_publish(self, subject: str) -> bool:
        return not await self.refused(lambda: self.client.publish(subject, b""), subject)

    async def may_subscribe(self, subject: str) -> bool:
        return not await self.refused(lambda: self.client.subscribe(subject), subject)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("operator")


@pytest.fixture
async def world(directory: Path) -> AsyncIterator[World]:
    """A server for each test, on the same files: each test uses names of its own."""
    authority = Authority.open(directory, create=True)
    authority.apply_policy(Policy.of([TEAM]))
    async with operator_server(authority, directory / "server") as url, AsyncExitStack() as stack:
        yield World(authority, url, stack)


@pytest.mark.parametrize("roles", [("agent",), ("agent", "QA"), ("agent", "host", "QA", "Team X"), ("agent", "team"), ("auditor",)])
async def test_the_server_gives_exactly_what_the_policy_compiles_to(world: World, roles: tuple[str, ...]) -> None:
    """`{{name()}}`, and `{{tag(role)}}` with no tag, one and several."""
    authority, name = world.authority, "-".join(roles).replace(" ", "")
    await world.issue(name, *roles)
    peer = await world.join(name)
    assert await peer.rights() == expand(compile_scope(authority.policy, roles, authority.subjects), name, memberships_of(roles))


async def test_scoped_rights_hold(world: World) -> None:
    await world.issue("alice", "agent", "team", "QA")
    peer = await world.join("alice")
    for subject, allowed in {
        "mesh.v1.call.time.any.alice.tools.call.now": True, "mesh.v1.call.time.any.bob.tools.call.now": False,
        "mesh.v1.call.time.any.alice.tools.call.set": False, "mesh.v1.reply.bob.alice.c.1": True, "mesh.v1.reply.bob.QA.c.1": True,
        "mesh.v1.reply.bob.time.c.1": False, "$KV.registry.alice.i": True, "$KV.registry.time.i": False,
        "$JS.API.CONSUMER.CREATE.JOURNAL": False, "$JS.API.DIRECT.GET.KV_registry": False,
    }.items():  # fmt: skip
        assert await peer.may_publish(subject) == allowed, subject
    for subject, allowed in {
        "mesh.v1.call.alice.any.>": True, "mesh.v1.call.QA.any.>": True, "mesh.v1.call.time.any.>": False,
        "mesh.v1.reply.alice.*.*.*": True, "mesh.v1.reply.bob.*.*.*": False,
        "mesh.v1.>": False, ">": False, "_INBOX.>": False, "$SYS.>": False,
    }.items():  # fmt: skip
        assert await peer.may_subscribe(subject) == allowed, subject
    assert peer.client.is_connected


async def test_who_brings_nothing_or_something_of_another_operator_is_refused(world: World, tmp_path: Path) -> None:
    foreign = Authority.open(tmp_path, create=True)
    foreign.issue("alice")
    for credentials in (None, foreign.credentials("alice")):
        await _refused(world.url, credentials)


async def test_a_revocation_cuts_off_at_once_and_only_that_one(world: World) -> None:
    await world.issue("mallory", "agent")
    await world.issue("bystander", "agent")
    mallory, bystander = await world.join("mallory", allow_reconnect=False), await world.join("bystander")
    copy = (world.authority.credentials("mallory") or Path()).read_text()
    world.authority.revoke("mallory")
    async with asyncio.timeout(2):
        await world.push()
        await mallory.gone.wait()
    stolen = world.authority.keyring.path.parent / "stolen.creds"
    stolen.write_text(copy)
    await _refused(world.url, stolen)
    assert await bystander.may_publish("mesh.v1.reply.x.bystander.c.1")
    assert not bystander.gone.is_set()
    await world.issue("mallory", "agent", again=True)  # forgiven: a new key
    assert (await world.join("mallory")).client.is_connected


async def test_a_revocation_holds_where_the_server_starts_with_an_old_configuration(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The configuration holds the account as it was when it was exported. What the server was told since is newer, and stays."""
    authority = Authority.open(directory, create=True)
    authority.issue("eve")
    old = (authority.credentials("eve") or Path()).read_text()
    exported, place = authority.server_config(), directory / "again"
    async with operator_server(authority, place) as url:
        authority.revoke("eve")
        await push(authority, url)
    stolen = directory / "eve.creds"
    stolen.write_text(old)
    monkeypatch.setattr(authority, "server_config", lambda: exported)
    async with operator_server(authority, place) as url:
        await _refused(url, stolen)


async def test_a_changed_policy_reaches_connected_clients(world: World) -> None:
    """By a template that changed, and by a scope that did. Who is not concerned stays connected."""
    await world.issue("carol", "agent", "team")
    await world.issue("dave", "agent", "ops")
    await world.issue("erin", "agent")
    carol, dave, erin = [await world.join(each) for each in ("carol", "dave", "erin")]
    assert not await carol.may_publish("mesh.v1.call.time.any.carol.tools.call.set")
    ops = Role("ops", call=(parse_rule("git"),))
    assert world.authority.apply_policy(Policy.of([Role("team", call=(parse_rule("time/set"),)), ops])) == ("dave",)
    async with asyncio.timeout(5):
        await world.push()
        await carol.gone.wait()
        await dave.gone.wait()
    for name, subject in (("carol", "mesh.v1.call.time.any.carol.tools.call.set"), ("dave", "mesh.v1.call.git.any.dave.tools.call.log")):
        assert await (await world.join(name)).may_publish(subject)
    assert not await (await world.join("carol")).may_publish("mesh.v1.call.time.any.carol.tools.call.now")
    assert not erin.gone.is_set()
    assert await erin.may_publish("mesh.v1.reply.x.erin.c.1")


async def test_an_expired_token_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.wall_ns()
    with monkeypatch.context() as context:
        context.setattr(clock, "wall_ns", lambda: now - 3_600 * 1_000_000_000)
        await world.issue("late", "agent", expires=timedelta(minutes=59))
        await world.issue("timely", "agent", expires=timedelta(minutes=61))
    await _refused(world.url, world.authority.credentials("late"))
    assert (await world.join("timely")).client.is_connected
    world.authority.renew("late")
    assert (await world.join("late")).client.is_connected


async def test_a_renewal_disturbs_nobody(world: World) -> None:
    await world.issue("frank", "agent", expires=timedelta(days=1))
    peer = await world.join("frank")
    assert not world.authority.renew("frank").account_changed
    await world.push()
    assert await peer.may_publish("mesh.v1.reply.x.frank.c.1")
    assert not peer.gone.is_set()


async def test_rotating_a_scope_cuts_nobody_off_until_the_old_key_retires(world: World) -> None:
    await world.issue("grace", "agent", "ops2")
    old = await world.join("grace")
    world.authority.rotate_scope("agent")
    await world.push()
    assert await old.may_publish("mesh.v1.reply.x.grace.c.1")
    assert not old.gone.is_set()
    new = await world.join("grace")
    world.authority.rotate_scope("agent", retire=True)
    async with asyncio.timeout(5):
        await world.push()
        await old.gone.wait()
    assert await new.may_publish("mesh.v1.reply.x.grace.c.1")
    assert not new.gone.is_set()


async def test_the_operator_rotates_over_restarts_and_never_locks_everybody_out(directory: Path) -> None:
    authority, place = Authority.open(directory, create=True), directory / "rotated"
    authority.issue("heidi")
    async with operator_server(authority, place) as url:
        authority.rotate_operator()
        await push(authority, url)
        authority.rotate_operator(retire=True)  # too early: this server does not know the new key
        with pytest.raises(BrokerError, match="does not trust"):
            await push(authority, url)
        assert await _connects(url, authority, "heidi")
    async with operator_server(authority, place) as url:
        await push(authority, url)
        assert await _connects(url, authority, "heidi")


async def test_a_thousand_rules_leave_a_users_token_small(world: World) -> None:
    # One tool each: the account stays below what can be pushed.
    world.authority.apply_policy(Policy.of([TEAM, Role("many", call=tuple(parse_rule(f"a{n}") for n in range(330)))]))
    await world.issue("ivan", "agent", "many")
    rights = await (await world.join("ivan")).rights()
    assert len(rights.publish) + len(rights.subscribe) > 1_000
    path = world.authority.credentials("ivan")
    assert path is not None
    assert len(read_credentials(path).jwt) < 1_024
    assert len(world.authority.account_jwt()) < 256 * 1024
    world.authority.apply_policy(Policy.of([TEAM]))


async def test_disconnect_events_reach_the_account(world: World) -> None:
    """The control plane hears who is gone, though it has no rights in the system account."""
    await world.issue("mesh", "plane")
    await world.issue("judy", "agent")
    plane, judy = await world.join("mesh"), await world.join("judy")
    events = await plane.client.subscribe("mesh.v1.broker.disconnect")
    await plane.client.flush(5)
    await judy.client.close()
    event = json.loads((await events.next_msg(5)).data)
    assert event["client"]["user"] == world.authority.user("judy").public
    assert event["client"]["acc"] == world.authority.account_public()


async def _silent(_: Exception) -> None:
    """nats-py would print it."""


async def _refused(url: str, credentials: Path | None) -> None:
    path = None if credentials is None else str(credentials)
    with pytest.raises(Error):
        await nats.connect(url, user_credentials=path, allow_reconnect=False, reconnect_time_wait=0, error_cb=_silent)


async def _connects(url: str, authority: Authority, name: str) -> bool:
    client = await nats.connect(url, user_credentials=str(authority.credentials(name)), error_cb=_silent)
    try:
        return client.is_connected
    finally:
        await client.close()
