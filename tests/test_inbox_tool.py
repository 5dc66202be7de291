"""Messages for an agent whose server knows nothing of messages, but has a tool for them."""

import asyncio
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from bridge import serve
from bridge.apart import serve_command
from bridge.app import load_streams, make_spec
from bridge.arguments import make_parser
from mesh import Mesh
from mesh.delivery import receiver
from mesh.errors import ConfigError, RemoteError
from mesh.streams import Stream
from tests.conftest import Broker
from tests.message_world import AT_ONCE, letters, until, until_gone


def clerk(taken: list[dict[str, Any]], *fail: str) -> MCPServer[Any]:
    server: MCPServer[Any] = MCPServer("clerk")
    fails = list(fail)

    @server.tool()
    async def take(sender: str, type: str, content: Any, id: str) -> dict[str, Any]:
        """Take a message."""
        if fails:
            raise ValueError(fails.pop(0))
        taken.append({"sender": sender, "type": type, "content": content, "id": id})
        return {"taken": len(taken)}

    return server


async def test_a_message_goes_to_the_tool_and_its_result_is_the_answer(plane: str) -> None:
    taken: list[dict[str, Any]] = []
    async with serve(clerk(taken), name="clerk", broker=plane, inbox="take"), Mesh(name="boss", broker=plane) as boss:
        assert await boss.messages.send_message("clerk", "order", {"n": 1}, timeout=20, id="o1") == {"taken": 1}
        await boss.messages.publish_message("clerk", "order", "later", priority="critical")
        await until_gone(plane, "clerk", "critical")
        assert await boss.messages.send_message("clerk", "nothing", timeout=20) == {"taken": 3}
    assert taken[0] == {"sender": "boss", "type": "order", "content": {"n": 1}, "id": "o1"}
    assert [each["content"] for each in taken[1:]] == ["later", None]


async def test_what_waited_is_delivered_and_a_failure_is_tried_again(plane: str) -> None:
    taken: list[dict[str, Any]] = []
    async with Mesh(name="boss", broker=plane) as boss:
        await boss.messages.publish_message("late-clerk", "order", 1)
        async with serve(clerk(taken, "not yet"), name="late-clerk", broker=plane, inbox="take"):
            async with asyncio.timeout(20):
                await until_gone(plane, "late-clerk")
    assert [each["content"] for each in taken] == [1]


async def test_what_the_tool_cannot_take_is_a_dead_letter(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "Backoff", lambda: AT_ONCE)
    server: MCPServer[Any] = MCPServer("picky")

    @server.tool()
    async def take(unknown: int) -> str:
        """Take what no message has."""
        return str(unknown)

    async with serve(server, name="picky", broker=plane, inbox="take"), Mesh(name="boss", broker=plane) as boss:
        with pytest.raises(RemoteError):
            await boss.messages.send_message("picky", "order", 1, timeout=60)
    (letter,) = await letters(plane, "picky")
    assert letter.letter.code in ("failed", "rejected")


async def test_a_tool_that_is_none_is_told(broker: Broker, plane: str) -> None:
    with pytest.raises(ConfigError, match="is no tool of its server"):
        async with serve(clerk([]), name="mistaken", broker=plane, inbox="tke"):
            pass


async def test_messages_of_its_name_are_calls_of_a_tool_and_all_others_go_to_the_inbox(plane: str) -> None:
    taken: list[dict[str, Any]] = []
    came = asyncio.Event()
    server = clerk(taken)

    @server.tool()
    async def note(content: str) -> str:
        """Note."""
        taken.append({"content": content})
        came.set()
        return "noted"

    @server.tool()
    async def add(one: int, other: int) -> dict[str, int]:
        """Add."""
        return {"sum": one + other}

    options: dict[str, Any] = {"inbox": "note", "answers": ["add"], "topics": ["news.*"]}
    async with serve(server, name="counter", broker=plane, **options), Mesh(name="boss", broker=plane) as boss:
        assert await boss.messages.send_message("counter", "add", {"one": 3, "other": 4}, timeout=20) == {"sum": 7}
        with pytest.raises(RemoteError, match="arguments"):
            await boss.messages.send_message("counter", "add", "3 and 4", timeout=20)
        await boss.messages.publish_message(topic="news.today", content="rain")
        async with asyncio.timeout(20):
            await came.wait()
    assert taken == [{"content": "rain"}]


async def test_what_is_sent_to_all_and_to_a_role_is_handed_on(plane: str) -> None:
    taken: list[dict[str, Any]] = []
    options: dict[str, Any] = {"inbox": "take", "broadcasts": True, "roles": ["clerks"]}
    async with serve(clerk(taken), name="hearing", broker=plane, **options), Mesh(name="boss", broker=plane) as boss:
        await boss.messages.broadcast("to.all", 1)
        await boss.messages.broadcast("to.clerks", 2, to="clerks")
        await until(lambda: len(taken) == 2)
    assert sorted((each["type"], each["content"]) for each in taken) == [("to.all", 1), ("to.clerks", 2)]


async def test_a_type_that_no_tool_takes_is_a_dead_letter(plane: str) -> None:
    async with serve(clerk([]), name="narrow", broker=plane, answers=["take"]), Mesh(name="boss", broker=plane) as boss:
        with pytest.raises(RemoteError, match="no tool takes"):
            await boss.messages.send_message("narrow", "order", 1, timeout=20)


async def test_streams_are_served_beside_the_tools(plane: str) -> None:
    async def shout(stream: Stream) -> None:
        async for said in stream:
            await stream.send(said.upper())

    taken: list[dict[str, Any]] = []
    async with serve(clerk(taken), name="loud", broker=plane, streams={"shout": shout}), Mesh(name="boss", broker=plane) as boss:
        async with await boss.create_stream("loud", "shout") as stream:
            await stream.send("hey")
            assert await stream.receive() == "HEY"
        await boss.call("loud", "take", {"sender": "boss", "type": "t", "content": 1, "id": "1"}, timeout=20)
    assert taken[0]["content"] == 1


def test_the_file_may_say_it() -> None:
    assert make_spec(name="a", python="m:s", inbox="take").inbox == "take"


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        ({"command": "x", "streams": "m:s"}, "in Python"),
        ({"python": "m:s", "streams": "m"}, "module:name"),
        ({"python": "m:s", "topics": ("a",)}, "tools that take messages"),
        ({"python": "m:s", "broadcasts": True}, "tools that take messages"),
    ],
)
def test_what_does_not_go_together_is_told(said: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_spec(name="a", **said)


def test_an_agent_in_python_is_told_all_of_it() -> None:
    spec = make_spec(name="a", python="m:s", inbox="take", answers=("add", "sub"), topics=("x.*",), streams="m:streams", broadcasts=True)
    command = serve_command(spec, None)
    options = make_parser().parse_args(command[command.index("serve") :])
    assert (options.inbox, options.answer, options.topic, options.streams) == ("take", ["add", "sub"], ["x.*"], "m:streams")
    assert options.broadcasts


def test_what_serves_no_streams_is_told() -> None:
    with pytest.raises(ConfigError, match="serves no streams"):
        load_streams("examples.notes:server")
