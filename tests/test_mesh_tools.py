"""The mesh's own tools, as a host sees them that is nothing but an MCP host: the SDK's client, in both eras, on a real broker."""

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any, Literal

import jsonschema_rs
import pytest
from mcp import Client
from mcp.shared.subscriptions import ResourceUpdated

from bridge import mesh_transport
from bridge.gathered.own import INBOX
from bridge.mesh_tools.hints import for_hosts
from bridge.mesh_tools.tools import TOOLS
from mesh import Mesh
from tests.conftest import Broker
from tests.gather_world import hosted, text
from tests.helpers import Recorder, Signals, serving
from tests.message_world import Inbox, letters, receiving, until_gone, waiting

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

ERAS = ("legacy", "auto")

Mode = Literal["legacy", "auto"]


async def called(client: Client, tool_name: str, /, **arguments: Any) -> dict[str, Any]:
    result = await client.call_tool(tool_name, arguments)
    assert not result.is_error, text(result)
    assert result.structured_content is not None
    return dict(result.structured_content)


async def failed(client: Client, tool_name: str, /, **arguments: Any) -> str:
    result = await client.call_tool(tool_name, arguments)
    assert result.is_error
    return text(result)


@pytest.mark.parametrize("mode", ERAS)
async def test_a_message_there_and_back(plane: str, mode: Mode) -> None:
    inbox = Inbox({"approved": True})
    name = f"asker-{mode}"
    async with (
        receiving(plane, f"reviewer-{mode}", inbox),
        Mesh(name=name, broker=plane) as mesh,
        Mesh(name="boss", broker=plane) as boss,
        Client(mesh_transport(mesh=mesh), mode=mode) as client,
    ):
        assert (await called(client, "check_messages", wait=0))["messages"] == []
        said = await called(client, "send_message", to=f"reviewer-{mode}", type="review", content={"pr": 7}, wait=10)
        assert said["answer"] == {"approved": True}
        assert (inbox.messages[0].sender, inbox.messages[0].id) == (name, said["id"])

        waits = asyncio.create_task(boss.messages.send_message(name, "question", "how far?", timeout=20, priority="high"))
        (message,) = (await called(client, "check_messages", wait=10))["messages"]
        assert (message["sender"], message["type"], message["content"]) == ("boss", "question", "how far?")
        done = await called(client, "acknowledge_message", id=message["id"], answer={"done": "half"})
        assert done == {"id": message["id"], "outcome": "done"}
        assert await waits == {"done": "half"}
        assert (await called(client, "check_messages", wait=0))["messages"] == []
    await until_gone(plane, name, "high")


async def test_what_is_not_acknowledged_goes_back_and_what_is_rejected_lies_in_the_dead_letters(plane: str) -> None:
    async with Mesh(name="boss", broker=plane) as boss:
        for number in (1, 2):
            await boss.messages.publish_message("idle", "t", number, id=f"m{number}")
        async with Mesh(name="idle", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
            held = [each["id"] for each in (await called(client, "check_messages", wait=10))["messages"]]
            if len(held) < 2:
                held = [each["id"] for each in (await called(client, "check_messages", wait=10))["messages"]]
            assert await waiting(plane, "idle") == 2
            await called(client, "acknowledge_message", id="m1", outcome="reject", reason="not mine")
            (letter,) = await letters(plane, "idle")
            assert (letter.letter.code, letter.letter.reason) == ("rejected", "not mine")
        async with Mesh(name="idle", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
            (again,) = (await called(client, "check_messages", wait=10))["messages"]
            assert (again["id"], again["delivery"]) == ("m2", 2)
            await called(client, "acknowledge_message", id="m2")
        assert "no message 'nothing' is held" in await failed_at(plane, "idle", "acknowledge_message", id="nothing")


async def failed_at(plane: str, name: str, tool: str, **arguments: Any) -> str:
    async with Mesh(name=name, broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
        return await failed(client, tool, **arguments)


@pytest.mark.parametrize("mode", ERAS)
async def test_new_messages_are_announced(plane: str, mode: Mode) -> None:
    name = f"told-{mode}"
    async with Mesh(name=name, broker=plane) as mesh, Mesh(name="boss", broker=plane) as boss:
        heard = asyncio.Event()

        async def on_message(message: Any) -> None:
            if "updated" in str(getattr(message, "method", "")) and str(message.params.uri) == INBOX:
                heard.set()

        async with Client(mesh_transport(mesh=mesh), mode=mode, message_handler=on_message) as client:
            assert INBOX in [str(each.uri) for each in (await client.list_resources()).resources]
            if mode == "legacy":
                await client.subscribe_resource(INBOX)
                await boss.messages.publish_message(name, "t", "news")
                async with asyncio.timeout(10):
                    await heard.wait()
            else:
                async with client.listen(resource_subscriptions=[INBOX]) as events:
                    await boss.messages.publish_message(name, "t", "news")
                    async with asyncio.timeout(10):
                        assert await anext(aiter(events)) == ResourceUpdated(uri=INBOX)
            assert len((await called(client, "check_messages", wait=10))["messages"]) == 1
            read = (await client.read_resource(INBOX)).contents[0].text  # type: ignore[union-attr]
            assert '"news"' in read


async def test_who_may_not_answer_is_told_so(broker: Broker, plane: str) -> None:
    broker.authority.issue("only-host", ("host",))
    async with Mesh(name="only-host", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
        said = await failed(client, "check_messages")
        assert "permission_denied" in said
        assert "may not answer under its name" in said
        assert {"send_message", "list_agents"} <= {tool.name for tool in (await client.list_tools()).tools}


async def test_who_may_send_to_nobody_is_shown_no_such_tool(broker: Broker, plane: str) -> None:
    broker.authority.issue("silent", ("agent",))
    async with Mesh(name="silent", broker=plane) as mesh, hosted(mesh) as host:
        await host.greet()
        names = {tool["name"] for tool in (await host.ask(1, "tools/list"))["result"]["tools"]}
        assert {"check_messages", "acknowledge_message", "list_agents"} <= names
        assert not names & {"send_message", "list_schedules", "cancel_schedule", "submit_job"}
        assert "error" in await host.ask(2, "tools/call", name="send_message", arguments={"to": "x", "type": "t"})


async def test_who_is_there(plane: str) -> None:
    async with serving(plane, "shown", Recorder()), Mesh(name="looker", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
        agents = {each["name"]: each for each in (await called(client, "list_agents"))["agents"]}
        assert agents["shown"]["state"] == "up"
        assert "mesh" not in agents
        assert (await called(client, "list_agents", role="nobody's"))["agents"] == []


@pytest.mark.parametrize("mode", ERAS)
async def test_events_and_jobs(plane: str, mode: Mode) -> None:
    heard: list[Any] = []
    signals = Signals()

    async def hear(event: Any) -> None:
        heard.append((event.topic, event.data))
        signals.tell()

    async def work(_: Any) -> Any:
        return {"content": [{"type": "text", "text": "done"}]}

    async with (
        Mesh(name=f"submitter-{mode}", broker=plane) as mesh,
        Mesh(name=f"worker-{mode}", broker=plane) as worker,
        Client(mesh_transport(mesh=mesh), mode=mode) as client,
    ):
        async with worker.events.subscribe("builds.*", hear):
            said = await called(client, "publish_event", topic="builds.failed", data={"n": 1}, id=f"e-{mode}")
            assert said == {"id": f"e-{mode}"}
            await signals.until(lambda: heard == [("builds.failed", {"n": 1})])
        assert "publish" in await failed(client, "publish_event", topic="builds.*")
        job = await called(client, "submit_job", agent=f"worker-{mode}", tool="t", arguments={"a": 1})
        assert job["state"] == "queued"
        async with worker.jobs.work(work):
            done = await called(client, "get_job", id=job["id"], wait=20)
        assert done["state"] == "done"
        assert done["result"]["content"][0]["text"] == "done"
        assert job["id"] in [each["id"] for each in (await called(client, "list_jobs"))["jobs"]]
        other = await called(client, "submit_job", agent=f"worker-{mode}", tool="t")
        assert [each["id"] for each in (await called(client, "list_jobs", limit=1))["jobs"]] == [other["id"]]
        await called(client, "cancel_job", id=other["id"])
        assert (await called(client, "get_job", id=other["id"]))["state"] == "cancelled"
        assert "no_such_job" in await failed(client, "get_job", id="1-nothing")


async def test_who_sends_to_a_name_that_nobody_has_is_told(plane: str) -> None:
    async with (
        Mesh(name="typist", broker=plane) as mesh,
        serving(plane, "proofreader", Recorder()),
        Client(mesh_transport(mesh=mesh)) as client,
    ):
        for said in (
            await called(client, "send_message", to="proofraeder", type="t"),
            await called(client, "submit_job", agent="proofraeder", tool="t"),
        ):
            assert "nobody is here as 'proofraeder'" in said["warning"]
            assert "did you mean proofreader? list_agents shows who is there" in said["warning"]
        late = await failed(client, "send_message", to="proofraeder", type="t", wait=0.2)
        assert late.startswith("timeout: ")
        assert "did you mean proofreader?" in late
        assert "warning" not in await called(client, "send_message", to="proofreader", type="t")
        assert "warning" not in await called(client, "submit_job", agent="proofreader", tool="t")


async def test_hints_name_tools_of_the_host(plane: str) -> None:
    async with Mesh(name="shell-less", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
        assert "list_jobs shows them" in await failed(client, "get_job", id="nothing")
        assert "list_schedules shows those that there are" in await failed(client, "cancel_schedule", id="nothing")
    assert for_hosts("`mesh auth explain me 'send you'` says which roles would").startswith("for who looks after this mesh: `mesh auth")
    assert for_hosts("`mesh jobs wait 7-a`, or `mesh sendmail`") == "for who looks after this mesh: get_job, or `mesh sendmail`"


async def test_arguments_that_are_wrong_are_told(plane: str) -> None:
    async with Mesh(name="clumsy", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
        assert "to: " in await failed(client, "send_message", type="t")
        assert "priorty" in await failed(client, "send_message", to="a", type="t", priorty="high")
        assert "bad_schedule" in await failed(client, "send_message", to="a", type="t", at="tomorrow")
        assert "has passed" in await failed(client, "send_message", to="a", type="t", at="2020-01-01T00:00:00Z")
        assert "delay" in await failed(client, "send_message", to="a", type="t", delay="soon")
        for delay in ("1h", 3600):
            scheduled = await called(client, "send_message", to="a", type="t", delay=delay)
            (found,) = (await called(client, "list_schedules"))["schedules"]
            assert found["id"] == scheduled["id"]
            assert datetime.fromisoformat(found["at"]) > datetime.fromisoformat(found["made"]) + timedelta(minutes=59)
            await called(client, "cancel_schedule", id=found["id"])
        asked = {"agent_tool": "send_message", "arguments": {"to": "a", "type": "t"}}
        async with Client(mesh_transport(mesh=mesh, only_find=True)) as other:
            assert (await other.call_tool("call_tool", asked)).structured_content


async def test_who_shows_find_tools_only_finds_them_too(broker: Broker, plane: str) -> None:
    broker.authority.issue("quiet", ("agent",))
    async with Mesh(name="finder", broker=plane) as mesh, Client(mesh_transport(mesh=mesh, only_find=True)) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["find_tools", "call_tool"]
        first, *_ = (await called(client, "find_tools", query="subscribe events"))["tools"]
        assert (first["name"], first["agent"]) == ("subscribe_events", "mesh")
        assert {each["name"] for each in (await called(client, "find_tools", query="", agent="mesh", limit=50))["tools"]} == set(TOOLS)
        assert "durable" in await called(client, "call_tool", agent_tool=first["name"], arguments={"topic": "found"})
    async with Mesh(name="quiet", broker=plane) as mesh, Client(mesh_transport(mesh=mesh, only_find=True)) as client:
        names = {each["name"] for each in (await called(client, "find_tools", query="", agent="mesh", limit=50))["tools"]}
        assert "check_messages" in names
        assert not names & {"send_message", "subscribe_events"}


@pytest.mark.parametrize("name", TOOLS)
def test_their_schemas_are_schemas(name: str) -> None:
    said = json.loads(TOOLS[name].raw)
    for schema in ("inputSchema", "outputSchema"):
        jsonschema_rs.meta.validate(said[schema])
        assert said[schema]["type"] == "object"
    assert said["annotations"]["readOnlyHint"] in (True, False)
