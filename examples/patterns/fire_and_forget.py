"""Fire and forget: told once, kept until each agent that subscribed to the topic has had it. Nobody waits for an answer."""

import asyncio

from mesh import Mesh


async def main() -> None:
    async with Mesh() as mesh:
        id = await mesh.messages.publish_message(
            topic="system.update",
            content={"version": "2.1.0", "changes": ["streams", "events"]},
            priority="normal",
        )
        print("the broker has", id)


asyncio.run(main())
