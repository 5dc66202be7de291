"""`mesh call`: an argument that the tool does not know, and a tool that failed, for a person and for a program."""

from pathlib import Path

from tests.cli_helpers import Ended, mesh
from tests.conftest import Broker
from tests.test_cli import a_mesh


async def test_an_argument_that_the_tool_does_not_know(broker: Broker, tmp_path: Path) -> None:
    """A person is told, and the call goes on: what the server makes of it is its own affair."""
    async with a_mesh(broker):
        people = await mesh("call", "echo", "echo", "txet=5", *broker.options, cwd=tmp_path)
        assert people == Ended(0, '{"txet": "5"}\n', "WARNING: echo has no argument 'txet'; did you mean 'text'?\n")
        given = await mesh("call", "echo", "echo", "--args", '{"txet": 5}', *broker.options, cwd=tmp_path)
        assert "did you mean 'text'?" in given.err
        assert (await mesh("call", "echo", "echo", "txet=5", "--json", *broker.options, cwd=tmp_path)).err == ""


async def test_a_tool_that_failed(broker: Broker, tmp_path: Path) -> None:
    """A command that failed, for a person and for a program, which gets the result all the same."""
    async with a_mesh(broker):
        assert await mesh("call", "echo", "broken", *broker.options, cwd=tmp_path) == Ended(1, "", "no such note\n")
        programs = await mesh("call", "echo", "broken", *broker.options, "--json", cwd=tmp_path)
        assert (programs.code, programs.json["isError"], programs.err) == (1, True, "")
