"""README.md and docs/machines.md cannot drift: their Python runs, their commands work as typed, their files are read, against a mesh that
`mesh up` started."""

import asyncio
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mcp import Client
from mcp.client.stdio import StdioServerParameters

from bridge.config import read_file
from bridge.mesh_tools.tools import TOOLS
from tests.typed import BIN, ROOT, mesh_of, run

README = (ROOT / "README.md").read_text()
TEXT = README + (ROOT / "docs/machines.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def commands() -> list[str]:
    """The command lines of all console blocks, as typed."""
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    return [line.partition("  #")[0].strip() for line in lines]


GROUPS = "agents|auth|call|dlq|events|jobs|journal|listen|publish|schedules|send|tools|doctor|topology"


@pytest.fixture(scope="module")
def mesh_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a running quickstart mesh in `.mesh`, as after `scripts/start`."""
    with mesh_of("examples/quickstart.toml", tmp_path_factory.mktemp("readme"), "--http-port", "0") as directory:
        yield directory


PROGRAMS = [block for block in blocks("python") if "asyncio.run(" in block]


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_python_runs(number: int, mesh_dir: Path) -> None:
    out = run([sys.executable, "-c", PROGRAMS[number]], mesh_dir)
    said = ("Europe/Berlin", "add_note", "Hello, mesh", "{'sum': 7}", "'steps': 10", "[0, 1, 4, 9]", "again: ", "at /ok", "local True")
    assert said[number] in out


@pytest.mark.parametrize(
    "command",
    [line for line in commands() if re.match(rf"mesh ({GROUPS})\b(?! reviewer )|mesh-bridge connect --print", line)],
)
def test_commands_work_as_typed(command: str, mesh_dir: Path) -> None:
    refuses = command.startswith("mesh auth explain")  # what is asked there is not allowed, and 1 says so
    assert run([str(part) for part in shlex.split(command)], mesh_dir, code=1 if refuses else 0).strip()


TABLE = [re.sub(r" (ID|--watch|--follow)$", "", line) for line in re.findall(r"\| `(mesh [^`]+)` \|", README)]


@pytest.mark.parametrize("command", sorted(set(TABLE)))
def test_commands_of_the_table_are_there(command: str, mesh_dir: Path) -> None:
    words: list[str | Path] = [str(word) for word in shlex.split(command)]
    assert "Usage" in run([*words, "--help"], mesh_dir)


def test_every_other_command_is_one_that_the_tests_know() -> None:
    """A new kind of command in the README needs a test of its own."""
    known = r"scp |MESH_CA=ca.pem mesh-bridge serve|"  # tests/test_tls.py does what these say
    known += rf"mesh ({GROUPS}|up)\b|mesh-bridge (serve|connect)|scripts/start|source |claude mcp add|python examples/patterns/"
    assert [line for line in commands() if not re.match(known, line)] == []


def test_the_file_in_the_readme_is_read(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text(blocks("toml")[0])
    assert [agent.name for agent in read_file(tmp_path / "mesh.toml").agents] == ["time", "docs", "notes"]


@pytest.fixture(scope="module")
def own_agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a running mesh of the README's own agent."""
    directory = tmp_path_factory.mktemp("own")
    [server] = [block for block in blocks("python") if block.startswith("# reviewer.py")]
    (directory / "reviewer.py").write_text(server)
    (directory / "mine.toml").write_text(next(block for block in blocks("toml") if "reviewer:server" in block))
    with mesh_of("mine.toml", directory, cwd=directory):
        yield directory


def test_an_agent_of_ones_own(own_agent: Path) -> None:
    sends, calls = (shlex.split(line) for line in commands() if re.match(r"mesh (send|call) reviewer ", line))
    run(sends, own_agent)
    deadline = 20
    while "look at the tests" not in (said := run([word.replace("$PWD", str(ROOT)) for word in calls], own_agent)):
        deadline -= 1
        assert deadline, said
    assert "On branch" in said or "HEAD detached" in said
    assert "reviewer" in run(["mesh", "journal", "--caller", "reviewer"], own_agent)
    run(["mesh", "auth", "explain", "reviewer", "call", "git/git_commit"], own_agent, code=1)


async def test_a_server_is_served_as_typed(mesh_dir: Path) -> None:
    command = next(line for line in commands() if line.startswith("mesh-bridge serve time"))
    words = [str(BIN / word) if word in ("mesh-bridge", "mcp-server-time") else word for word in shlex.split(command)]
    process = await asyncio.create_subprocess_exec(
        *words, cwd=mesh_dir, env={**os.environ, "MESH_STATE_DIR": str(mesh_dir / ".mesh")}, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(30):
        assert b"time is on the mesh" in await process.stderr.readline()
        process.terminate()
        assert await process.wait() == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the SDK's stdio client leaves a pipe to the collector
async def test_the_host_command_is_a_server_for_a_host(mesh_dir: Path) -> None:
    """`claude mcp add time -- COMMAND`: what stands behind the dashes, driven by the MCP SDK."""
    line = next(line for line in commands() if line.startswith("claude mcp add"))
    words = shlex.split(line.partition(" -- ")[2].replace("$PWD", str(mesh_dir)))
    async with (
        asyncio.timeout(30),
        Client(StdioServerParameters(command=str(BIN / Path(words[0]).name), args=words[1:])) as client,
    ):
        assert "get_current_time" in [tool.name for tool in (await client.list_tools()).tools]


def test_the_table_of_the_meshs_own_tools_is_true() -> None:
    """All of them stand there, and what each row says they take one of them takes; what one cannot do without is there."""
    section = README.partition("## A host reaches all this")[2].partition("\n## ")[0]
    rows = [[re.findall(r"`(\w+)`", cell) for cell in line.split(" | ")[:2]] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(name for names, _ in rows for name in names) == sorted(TOOLS)
    for names, takes in rows:
        schemas = [TOOLS[name].takes.model_json_schema() for name in names]
        assert set(takes) <= {each for schema in schemas for each in schema["properties"]}
        assert {each for schema in schemas for each in schema.get("required", ())} <= set(takes)
