"""A stream in both directions: a test run, watched while it happens. `{"action": "stop_tests"}` would end it early."""

import asyncio

from mesh import Mesh


async def main() -> None:
    async with Mesh() as mesh, await mesh.create_stream("qa-manager", "test_execution") as stream:
        await stream.send({"action": "start_tests", "suite": "regression"})
        stream.end()  # we say nothing more, and still hear
        async for message in stream:
            print("test update:", message)


asyncio.run(main())
