"""What is refused names a command that says which roles would allow it: each hint is typed here as it is printed."""

import asyncio
import json
import re
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.testing import CliRunner

from mesh import Mesh
from mesh.audit.journal import Journal
from mesh.cli.app import make_app
from mesh.errors import Denied
from mesh.events import Event
from mesh.link.jetstream import JetStream
from mesh.policy.rights import Policy, Role, parse_rule
from mesh.topology import JOURNAL
from tests.cli_helpers import mesh as command
from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Recorder

pytestmark = CUT_WARNINGS

OWN = (
    Role("builder", publish=("build.done",)),
    Role("watcher", subscribe=("build.>",)),
    Role("mailer", send=("qa lead",)),
    Role("clock", (parse_rule("time/now"),)),
    Role("odd", (parse_rule("time/tool:prompt:x"),)),
    Role("reader", (parse_rule("notes/prompt:weekly"), parse_rule("notes/resource:note://it's"))),
    Role("tester", (parse_rule("qa/stream:test_run"),)),
)


async def ignore(_: Any) -> None:
    """Takes what comes."""


async def heard(mesh: Mesh, topic: str, name: str | None = None) -> None:
    async with mesh.events.subscribe(topic, ignore, name=name):
        pass


async def cast(mesh: Mesh) -> None:
    async with mesh.events.subscribe_to_broadcasts(ignore, roles=("reviewers",), name="casts"):
        pass


async def present(mesh: Mesh, *, agent: str | None = None, roles: tuple[str, ...] = ()) -> None:
    async with mesh.present(Recorder(), agent=agent, roles=roles):
        pass


async def work(mesh: Mesh) -> None:
    async with mesh.jobs.work(ignore, roles=("reviewers",)):
        pass


async def listen(mesh: Mesh) -> None:
    async with mesh.messages.subscribe_to_messages(ignore, roles=("reviewers",)):
        pass


async def replayed(mesh: Mesh, topic: str) -> list[Event]:
    return [each async for each in mesh.events.replay_events(topic, 0)]


class Refused(NamedTuple):
    """What somebody with the role `agent` may not do, what that is called, and a role that would allow it."""

    action: str
    role: str
    do: Callable[[Mesh], Awaitable[Any]]


REFUSED = (
    Refused("call time/now", "clock", lambda mesh: mesh.call("time", "now", {})),
    Refused("call time/tool:prompt:x", "odd", lambda mesh: mesh.call("time", "prompt:x", {})),
    Refused("call 'odd name'/now", "host", lambda mesh: mesh.call("'odd name'", "now", {})),
    Refused("call time", "host", lambda mesh: mesh.request("time", "tools/list", {})),
    Refused("call notes/prompt:weekly", "reader", lambda mesh: mesh.request("notes", "prompts/get", {"name": "weekly"})),
    Refused("call notes/resource:note://it's", "reader", lambda mesh: mesh.request("notes", "resources/read", {"uri": "note://it's"})),
    Refused("call qa/stream:test_run", "tester", lambda mesh: mesh.create_stream("qa", "test_run")),
    Refused("call qa/stream:test_run", "tester", lambda mesh: mesh.create_stream("qa", "test_run", durable=True)),
    Refused("submit time/now", "clock", lambda mesh: mesh.jobs.submit("time", "now", {})),
    Refused("send qa lead", "mailer", lambda mesh: mesh.messages.publish_message("qa lead", "hello")),
    Refused("send qa lead", "mailer", lambda mesh: mesh.messages.mailbox("qa lead")),
    Refused("send qa lead", "mailer", lambda mesh: mesh.messages.schedule_message("qa lead", "hello", every=60)),
    Refused("send qa lead", "mailer", lambda mesh: mesh.messages.broadcast("hello", to="qa lead")),
    Refused("send *", "host", lambda mesh: mesh.messages.broadcast("hello")),
    Refused("publish build.done", "builder", lambda mesh: mesh.events.publish("build.done")),
    Refused("publish build.done", "builder", lambda mesh: mesh.messages.publish_message(topic="build.done", type="done")),
    Refused("publish build.done", "builder", lambda mesh: mesh.events.schemas.register("build.done", {"type": "object"})),
    Refused("subscribe build.*", "watcher", lambda mesh: heard(mesh, "build.*")),
    Refused("subscribe build.*", "watcher", lambda mesh: heard(mesh, "build.*", "durable")),
    Refused("subscribe build.>", "watcher", lambda mesh: replayed(mesh, "build.>")),
    Refused("subscribe a word.b", "host", lambda mesh: replayed(mesh, "a word.b")),
    Refused("subscribe build.done", "watcher", lambda mesh: mesh.events.schemas.get("build.done")),
    Refused("answer time", "time", lambda mesh: present(mesh, agent="time")),
    Refused("answer reviewers", "reviewers", lambda mesh: present(mesh, roles=("reviewers",))),
    Refused("answer reviewers", "reviewers", work),
    Refused("answer reviewers", "reviewers", listen),
    Refused("answer reviewers", "reviewers", cast),
    Refused("answer reviewers", "reviewers", lambda mesh: mesh.request("mesh", "mesh/lanes", {"target": "reviewers", "wanted": []})),
    Refused("read journal", "auditor", lambda mesh: Journal(mesh.connection, mesh.subjects).check()),
    Refused("read journal", "auditor", lambda mesh: mesh.request("mesh", "mesh/reader", {"stream": JOURNAL})),
    Refused("nats pub $JS.API.STREAM.LIST", "operator", lambda mesh: JetStream(mesh.connection).api("STREAM.LIST")),
)


@pytest.fixture(scope="module")
def world(broker: Broker, plane: str) -> Broker:
    broker.authority.apply_policy(Policy.of(OWN))
    return broker


async def typed(broker: Broker, hint: str, *more: str) -> Any:
    """What the command of a hint answers."""
    found = re.search(r"`mesh (auth explain .+?)` says which roles would", hint)
    assert found, hint
    words = [*shlex.split(found[1]), *more, "--json", "--state-dir", str(broker.server.state_dir.path)]
    ended = await asyncio.to_thread(CliRunner().invoke, make_app(), words)
    assert ended.exit_code in (0, 1), ended.output
    return json.loads(ended.stdout)


@pytest.mark.parametrize("name", ["intern", "the 2nd intern"])
async def test_every_hint_can_be_typed(world: Broker, name: str) -> None:
    async with Mesh(name=name, broker=world.url, roles=("agent",)) as mesh:
        for action, role, do in REFUSED:
            with pytest.raises(Denied) as refused:
                await do(mesh)
            said = await typed(world, refused.value.hint)
            assert (said["agent"], said["action"], said["allowed"]) == (name, action, False)
            assert role in said["would_allow"], action
            for each in said["would_allow"]:
                assert (await typed(world, refused.value.hint, "--role", "agent", "--role", each))["allowed"], (action, each)


@pytest.mark.parametrize(("words", "action"), [("journal", "read journal"), ("topology plan", "change topology")])
async def test_on_the_command_line_nothing_else_is_said(world: Broker, tmp_path: Path, words: str, action: str) -> None:
    ended = await command(*words.split(), "--name", "local", *world.options, cwd=tmp_path)
    assert ended.code == 1
    problem, hint = ended.err.splitlines()
    assert f"'local' may not {action}: no rule of its roles allows it" in problem
    assert "operator" in (await typed(world, hint))["would_allow"]


async def test_who_is_no_agent_is_told_both_roles_that_answering_wants(world: Broker) -> None:
    async with Mesh(name="visitor", broker=world.url, roles=("host",)) as mesh:
        for agent, needed in ((None, "agent"), ("time", "agent+time")):
            with pytest.raises(Denied) as refused:
                await present(mesh, agent=agent)
            assert (await typed(world, refused.value.hint))["would_allow"] == [needed]
