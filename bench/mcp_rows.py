"""What stands between an MCP host and an MCP server: rows about MCP through the mesh, against doing without it or with something else."""

import asyncio
import re
import sys
from typing import Final

from bench.bare import ROOT
from bench.compare import Contender, Figure, ratios, versus
from bench.peers import FASTMCP, MCP_PROXY, Peer, command_of
from bench.stage import SLOW_SERVER, STDIO_SERVER, BenchError, stage
from bench.table import Measured, OnRound, Pace, Side

AGENTS: Final = 100
TOOLS: Final = 20
LISTS: Final = 10
"""Before the first round."""

DIFFERENTIAL: Final = (sys.executable, "-m", "tests.differential", "--exchanges")


async def http_stdio(pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    """A stdio server on the mesh, called over HTTP, against the same server as a child of its caller."""
    async with stage() as it:
        await it.bridge("child", *STDIO_SERVER)
        this = Contender("HTTP to mesh", await it.participant("http-caller", f"{await it.http()}/agents/child/mcp", "modern"))
        that = Contender("direct", await it.participant("direct-caller", *STDIO_SERVER))
        sides = await versus(pace, on_round, this, that, figure)
    return Measured(ratios(*sides), sides)


async def against(peer: Peer, pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    """The same against another proxy between HTTP and that server. In the handshake era on both sides, which all proxies speak."""
    command = command_of(peer)
    async with stage() as it:
        await it.bridge("child", *STDIO_SERVER)
        this = Contender("HTTP to mesh", await it.participant("http-caller", f"{await it.http()}/agents/child/mcp", "handshake"))
        other = await it.participant("peer", peer.path, *command)
        that = Contender(peer.package, await it.participant("http-caller", other.url, "handshake"))
        sides = await versus(pace, on_round, this, that, figure)
    return Measured(ratios(*sides), sides)


async def mcp_proxy(pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    return await against(MCP_PROXY, pace, on_round, figure)


async def fastmcp(pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    return await against(FASTMCP, pace, on_round, figure)


async def in_process(pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    """A server object of the SDK on the mesh, against the SDK's own HTTP."""
    async with stage() as it:
        await it.bridge("sdk", python="bench.stdio_server:server")
        this = Contender("mesh", await it.participant("mesh-caller", it.broker, "sdk"))
        served = await it.participant("sdk-http")
        that = Contender("SDK over HTTP", await it.participant("http-caller", served.url, "modern"))
        sides = await versus(pace, on_round, this, that, figure)
    return Measured(ratios(*sides), sides)


async def pool(pace: Pace, on_round: OnRound, figure: Figure) -> Measured:
    """Two instances of a server that waits, against one."""
    async with stage() as it:
        for agent in ("one", "two", "two"):
            await it.bridge(agent, *SLOW_SERVER)
        this = Contender("two instances", await it.participant("mesh-caller", it.broker, "two"))
        that = Contender("one", await it.participant("mesh-caller", it.broker, "one"))
        sides = await versus(pace, on_round, this, that, figure)
    return Measured(ratios(*sides), sides)


async def gathered_list(pace: Pace, on_round: OnRound) -> Measured:
    """All tools of many agents, read by a host over `mesh-bridge connect`."""
    async with stage() as it:
        await it.participant("mesh-many", it.broker, str(AGENTS), str(TOOLS))
        connect = (sys.executable, "-m", "bridge", "connect", "--broker", it.broker)
        host = await it.participant("lister", str(AGENTS * TOOLS), *connect)
        await host.ask(calls=LISTS)
        found = []
        for _ in range(pace.rounds):
            found.append((await host.ask(seconds=pace.seconds))["p50"] / 1000)
            on_round()
    return Measured(tuple(found), (Side("a list of", "tools", (AGENTS * TOOLS,)),))


async def differential(pace: Pace, on_round: OnRound) -> Measured:
    """`scripts/differential`: generated exchanges, said to a server directly and through the mesh, compared byte by byte."""
    pipe, merged = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    process = await asyncio.create_subprocess_exec(*DIFFERENTIAL, str(pace.exchanges), cwd=ROOT, stdout=pipe, stderr=merged)
    try:
        output = (await process.communicate())[0].decode(errors="replace")
    except asyncio.CancelledError:
        process.terminate()
        await process.wait()
        raise
    found = re.findall(r"^.*?: (\d+) of (\d+) exchanges.*differences: (none|\d+)$", output, re.MULTILINE)
    if len(found) != 2:
        raise BenchError("\n".join(["scripts/differential did not end in order", *output.strip().splitlines()[-5:]]))
    on_round()
    compared = sum(int(each[0]) for each in found)
    differences = sum(0 if each[2] == "none" else int(each[2]) for each in found) + sum(int(each[1]) for each in found) - compared
    return Measured((differences,), (Side("compared", "exchanges", (compared,)),), {"output": output})
