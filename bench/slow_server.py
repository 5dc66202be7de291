"""An MCP server on stdio that awaits 5 ms a call and takes 8 calls at once, as one in front of a database does.

Without the SDK, so that waiting is what it does: two servers of the SDK take all of a small machine's processors themselves, and
nothing would be left to show whether their calls are shared well.
"""

import asyncio
import json
import sys
from typing import Any, Final

import uvloop

from bench import wire

SECONDS: Final = 0.005
AT_ONCE: Final = 8

DISCOVERED: Final = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}, "ttlMs": 0, "cacheScope": "private"}
TOOLS: Final = {"tools": [{"name": "echo", "inputSchema": {"type": "object"}}], "ttlMs": 0, "cacheScope": "private"}
INFO: Final = {"io.modelcontextprotocol/serverInfo": {"name": "slow", "version": "0"}}


def answer(request: dict[str, Any]) -> bytes:
    """The response to all that is no call."""
    result = {"server/discover": DISCOVERED, "tools/list": TOOLS}.get(request["method"])
    said = {"error": {"code": -32601, "message": "Method not found"}}
    if result is not None:
        said = {"result": {**result, "resultType": "complete", "_meta": INFO}}
    return json.dumps({"jsonrpc": "2.0", "id": request["id"], **said}).encode()


async def main() -> None:
    loop = asyncio.get_running_loop()
    requests = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(requests), sys.stdin)
    out, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, sys.stdout)
    free = asyncio.Semaphore(AT_ONCE)
    running: set[asyncio.Task[None]] = set()

    async def call(id: str) -> None:
        async with free:
            await asyncio.sleep(SECONDS)
        out.write(wire.answer(id) + b"\n")

    async for line in requests:
        request = json.loads(line)
        if request["method"] == "tools/call":
            task = asyncio.create_task(call(request["id"]))
            running.add(task)
            task.add_done_callback(running.discard)
        elif "id" in request:
            out.write(answer(request) + b"\n")


if __name__ == "__main__":
    uvloop.run(main())
