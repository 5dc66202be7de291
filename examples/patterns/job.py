"""Asynchronous request and response: it takes long, so there is an id now, and a result later: asked for, or told to a callback."""

import asyncio

from mesh import Mesh
from mesh.jobs import JobRecord

FEATURES = ["search", "export", {"name": "sso", "value": 9}, {"name": "audit log", "effort": 10, "after": ["sso"]}]


def on_ready(job: JobRecord) -> None:
    print("roadmap ready:", [month["features"] for month in job.content["months"]])


async def main() -> None:
    async with Mesh() as mesh:
        request = await mesh.messages.request_response(
            to="product-manager",
            type="generate_roadmap",
            content={"features": FEATURES, "timeline": "6months"},
        )
        told = mesh.messages.subscribe_to_response(request, on_ready)
        async for job in mesh.jobs.watch(request):  # or now and then: await mesh.jobs.get(request)
            print(job.state, f"{job.progress:g} of {job.total:g}: {job.message}" if job.total else "")
        await told


asyncio.run(main())
