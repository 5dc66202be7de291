"""Messages for an agent whose server knows nothing of messages, but has a tool for them."""

import asyncio
from typing import Any

import pytest
from mcp.server.mcpserver import MCPServer

from bridge import serve
from bridge.config import AgentSpec
from mesh import Mesh
from mesh.errors import ConfigError, RemoteError
from tests.conftest import Broker
from tests.message_world import letters, until_gone


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
    assert taken[0] == {"sender": "boss", "type": "order", "content": {"n": 1}, "id": "o1"}
    assert taken[1]["content"] == "later"


async def test_what_waited_is_delivered_and_a_failure_is_tried_again(plane: str) -> None:
    taken: list[dict[str, Any]] = []
    async with Mesh(name="boss", broker=plane) as boss:
        await boss.messages.publish_message("late-clerk", "order", 1)
        async with serve(clerk(taken, "not yet"), name="late-clerk", broker=plane, inbox="take"):
            async with asyncio.timeout(20):
                await until_gone(plane, "late-clerk")
    assert [each["content"] for each in taken] == [1]


async def test_what_the_tool_cannot_take_is_a_dead_letter(plane: str) -> None:
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


def test_the_file_may_say_it() -> None:
    assert AgentSpec(name="a", python="m:s", inbox="take").inbox == "take"
