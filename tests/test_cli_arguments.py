"""`mesh call` and what a tool does not know: said on stderr, to a person."""

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
