"""Events: who is interested subscribes. Each agent tells on `agent.health` how it is; others may publish there if a role says so."""

import asyncio

from mesh import Mesh
from mesh.events import Event


async def main() -> None:
    heard = asyncio.Event()

    async def on_health(event: Event) -> None:
        print(event.publisher, "says", event.data["agentId"], "is", event.data["status"])
        if event.data["status"] == "unhealthy":
            heard.set()  # here somebody is called

    async with Mesh() as mesh, mesh.events.subscribe("agent.health", on_health):
        figures = {"cpu": 0.2, "memory": 0.45}
        await mesh.events.publish("agent.health", {"agentId": mesh.name, "status": "unhealthy", "metrics": figures})
        await heard.wait()


asyncio.run(main())
