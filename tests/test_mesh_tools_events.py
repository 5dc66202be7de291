"""Events for what is nothing but an MCP host: subscribed to, announced, shown, settled. The SDK's client, both eras, a real broker."""

import asyncio
from typing import Any, Literal

import pytest
from mcp import Client
from mcp.shared.subscriptions import ResourceUpdated

from bridge import mesh_transport
from bridge.gathered.own import INBOX
from bridge.mesh_tools.topics import MOST_OF_EACH, MOST_OPEN
from mesh import Mesh
from mesh.wire.event import encode, new_event
from tests.conftest import Broker
from tests.gather_world import hosted
from tests.test_mesh_tools import ERAS, called, failed

pytestmark = pytest.mark.filterwarnings("ignore::mcp.MCPDeprecationWarning")

Mode = Literal["legacy", "auto"]


async def shown(client: Client, count: int = 1) -> list[dict[str, Any]]:
    """What is held, once there are so many."""
    async with asyncio.timeout(15):
        while True:
            found: list[dict[str, Any]] = (await called(client, "check_messages", wait=5, limit=100))["messages"]
            if len(found) >= count:
                return found


@pytest.mark.parametrize("mode", ERAS)
async def test_an_event_is_announced_shown_and_acknowledged(plane: str, mode: Mode) -> None:
    name, topic = f"watcher-{mode}", f"builds-{mode}"
    heard = asyncio.Event()

    async def on_message(message: Any) -> None:
        if "updated" in str(getattr(message, "method", "")) and str(message.params.uri) == INBOX:
            heard.set()

    async with (
        Mesh(name=name, broker=plane) as mesh,
        Mesh(name="builder", broker=plane) as builder,
        Client(mesh_transport(mesh=mesh), mode=mode, message_handler=on_message) as client,
    ):
        said = await called(client, "subscribe_events", topic=f"{topic}.*", filter='event.data.status == "failed"')
        assert not said["durable"]

        async def publish() -> None:
            await builder.events.publish(f"{topic}.nightly", {"status": "done"})
            await builder.events.publish(f"{topic}.nightly", {"status": "failed"}, id="e1", subject="main", priority="high")

        if mode == "legacy":
            await client.subscribe_resource(INBOX)
            await publish()
            async with asyncio.timeout(10):
                await heard.wait()
        else:
            async with client.listen(resource_subscriptions=[INBOX]) as events:
                await publish()
                async with asyncio.timeout(10):
                    assert await anext(aiter(events)) == ResourceUpdated(uri=INBOX)
        (event,) = await shown(client)
        assert (event["id"], event["sender"], event["topic"], event["content"]) == (
            "e1",
            "builder",
            f"{topic}.nightly",
            {"status": "failed"},
        )
        assert (event["subscription"], event["priority"], event["metadata"]) == (said["subscription"], "high", {"subject": "main"})
        assert '"e1"' in (await client.read_resource(INBOX)).contents[0].text  # type: ignore[union-attr]
        await called(client, "acknowledge_message", id="e1")
        assert (await called(client, "check_messages", wait=0))["messages"] == []
        await called(client, "unsubscribe_events", subscription=said["subscription"])
        assert said["subscription"] in await failed(client, "unsubscribe_events", subscription=said["subscription"])


async def test_a_durable_one_goes_on_where_it_stood(plane: str) -> None:
    async with Mesh(name="builder", broker=plane) as builder:
        async with Mesh(name="sleeper", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
            assert (await called(client, "subscribe_events", topic="works.*", name="mine"))["durable"]
            await builder.events.publish("works.a", 1, id="a")
            await builder.events.publish("works.b", 2, id="b")
            assert [each["id"] for each in await shown(client, 2)] == ["a", "b"]
            await called(client, "acknowledge_message", id="a")
        await builder.events.publish("works.c", 3, id="c")
        async with Mesh(name="sleeper", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
            await called(client, "subscribe_events", topic="works.*", name="mine")
            again = {each["id"]: each for each in await shown(client, 2)}
            assert again.keys() == {"b", "c"}
            assert again["b"]["delivery"] == 2
            await called(client, "subscribe_events", topic="works.*", name="mine")  # it is there: nothing changes
            assert "hears 'works.*'" in await failed(client, "subscribe_events", topic="others", name="mine")
            await called(client, "unsubscribe_events", subscription="mine")
            assert (await called(client, "check_messages", wait=0))["messages"] == []
            assert await mesh.events.subscriptions() == []


async def test_another_filter_counts_from_now_on(plane: str) -> None:
    async with (
        Mesh(name="builder", broker=plane) as builder,
        Mesh(name="picky", broker=plane) as mesh,
        Client(mesh_transport(mesh=mesh)) as client,
    ):
        assert "bad_expression" in await failed(client, "subscribe_events", topic="parts", name="p", filter="data >")
        await called(client, "subscribe_events", topic="parts", name="p", filter="event.data > 10")
        await called(client, "subscribe_events", topic="parts", name="p", filter="event.data > 1")
        await builder.events.publish("parts", 1, id="one")
        await builder.events.publish("parts", 2, id="two")
        assert [each["id"] for each in await shown(client)] == ["two"]


@pytest.mark.parametrize("durable", [True, False])
async def test_at_the_bound_the_rest_stays_with_the_broker(plane: str, durable: bool) -> None:
    topic, more = f"flood-{durable}".lower(), 3
    async with (
        Mesh(name="builder", broker=plane) as builder,
        Mesh(name=f"slow-{durable}", broker=plane) as mesh,
        Client(mesh_transport(mesh=mesh)) as client,
    ):
        said = await called(client, "subscribe_events", topic=topic, **({"name": "slow"} if durable else {}))
        assert (await called(client, "check_messages", wait=0))["full"] == []
        for number in range(MOST_OF_EACH + more):
            await builder.events.publish(topic, number, id=f"n{number}")
        held = await shown(client, MOST_OF_EACH)
        looked = await called(client, "check_messages", wait=0, limit=100)
        assert (len(looked["messages"]), looked["full"]) == (MOST_OF_EACH, [said["subscription"]])
        got = set()
        for event in held:
            got.add(event["id"])
            await called(client, "acknowledge_message", id=event["id"])
        rest = await shown(client, more)
        got |= {each["id"] for each in rest}
        assert got == {f"n{number}" for number in range(MOST_OF_EACH + more)}
        assert (await called(client, "check_messages", wait=0))["full"] == []


async def test_of_a_durable_one_what_is_to_be_tried_again_comes_again(plane: str) -> None:
    async with (
        Mesh(name="builder", broker=plane) as builder,
        Mesh(name="undecided", broker=plane) as mesh,
        Client(mesh_transport(mesh=mesh)) as client,
    ):
        await called(client, "subscribe_events", topic="again", name="it")
        await called(client, "subscribe_events", topic="again")
        await builder.events.publish("again", 1, id="x")
        assert len(await shown(client, 2)) == 2
        await called(client, "acknowledge_message", id="x", outcome="retry", reason="later")
        (event,) = await shown(client)
        assert (event["subscription"], event["delivery"]) == ("it", 2)


@pytest.mark.parametrize("durable", [False, True])
async def test_what_says_nothing_and_what_has_one_id_on_several_topics_is_shown(plane: str, durable: bool) -> None:
    topic = f"orders-{durable}"
    async with (
        Mesh(name="shop", broker=plane) as shop,
        Mesh(name=f"clerk-{durable}", broker=plane) as mesh,
        Client(mesh_transport(mesh=mesh)) as client,
    ):
        await called(client, "subscribe_events", topic=f"{topic}.*", **({"name": "orders"} if durable else {}))
        await shop.events.publish(f"{topic}.created", id="o1")
        await shop.events.publish(f"{topic}.paid", {"by": None}, id="o1")
        events = await shown(client, 2)
        assert {(each["topic"], str(each.get("content"))) for each in events} == {
            (f"{topic}.created", "None"),
            (f"{topic}.paid", "{'by': None}"),
        }
        assert f"of shop on {topic}.paid" in await failed(client, "acknowledge_message", id="o1")
        await called(client, "acknowledge_message", id="o1", topic=f"{topic}.created")
        (event,) = await shown(client)
        assert event["topic"] == f"{topic}.paid"


async def test_one_that_comes_again_and_again_takes_up_no_room(plane: str) -> None:
    async with (
        Mesh(name="stutterer", broker=plane) as stutterer,
        Mesh(name="patient", broker=plane) as mesh,
        Client(mesh_transport(mesh=mesh)) as client,
    ):
        await called(client, "subscribe_events", topic="stutter")
        encoded = encode(new_event("stutterer", "stutter", 1, id="same", type="t"))
        for _ in range(MOST_OF_EACH + 1):  # without a deduplication id
            stutterer.connection.send(
                stutterer.subjects.event("stutterer", "normal", "stutter"), encoded.body, headers=dict(encoded.headers)
            )
        await stutterer.events.publish("stutter", 2, id="last")
        await shown(client)
        async with asyncio.timeout(15):
            while True:
                ids = {each["id"] for each in await shown(client)}
                for id in ids:
                    await called(client, "acknowledge_message", id=id)
                if "last" in ids:
                    break


async def test_there_are_only_so_many(plane: str) -> None:
    async with Mesh(name="greedy", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
        for number in range(MOST_OPEN):
            await called(client, "subscribe_events", topic=f"t{number}")
        said = await failed(client, "subscribe_events", topic="more")
        assert f"there are {MOST_OPEN} subscriptions: now-" in said
        assert f"(t{MOST_OPEN - 1})" in said


async def test_who_may_hear_no_topic_is_offered_no_such_tool_and_who_may_not_answer_gets_events_all_the_same(
    broker: Broker, plane: str
) -> None:
    broker.authority.issue("deaf", ("agent",))
    async with Mesh(name="deaf", broker=plane) as mesh, Client(mesh_transport(mesh=mesh)) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        assert "check_messages" in names
        assert not names & {"subscribe_events", "unsubscribe_events"}
    async with Mesh(name="deaf", broker=plane) as mesh, hosted(mesh) as host:
        await host.greet()
        assert "error" in await host.ask(1, "tools/call", name="subscribe_events", arguments={"topic": ">"})
    broker.authority.issue("listener", ("host",))
    async with (
        Mesh(name="listener", broker=plane) as mesh,
        Mesh(name="builder", broker=plane) as builder,
        Client(mesh_transport(mesh=mesh)) as client,
    ):
        assert INBOX in [str(each.uri) for each in (await client.list_resources()).resources]
        await called(client, "subscribe_events", topic="open", name="o")
        await builder.events.publish("open", 1, id="x")
        assert [each["id"] for each in await shown(client)] == ["x"]
        await called(client, "acknowledge_message", id="x")
