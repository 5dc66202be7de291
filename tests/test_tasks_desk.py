"""Hosts that look at their tasks once a second, as they are asked to, over a control plane that answers 200 questions a minute."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from bridge.tasks.desk import Desk
from bridge.tasks.whose import Called
from mesh import Mesh
from tests.job_world import Hands, worker

POLLS = 80
"""Of each of four tasks: a minute and a third of one's time."""


@pytest.fixture
async def mesh(plane: str, request: pytest.FixtureRequest) -> AsyncIterator[Mesh]:
    async with Mesh(name=request.node.name.replace("_", "-")[:40], broker=plane) as mesh:
        yield mesh


@pytest.fixture
async def desk(mesh: Mesh) -> AsyncIterator[Desk]:
    desk = Desk(mesh)
    yield desk
    await desk.close()


async def test_tasks_may_be_looked_at_as_often_as_a_host_is_asked_to(plane: str, desk: Desk) -> None:
    hands = Hands(lambda work: asyncio.sleep(0, work.progress(1, 2, "half")))
    tasks = [await desk.submit(Called("late", "t", {}), 60, 1) for _ in range(4)]
    for _ in range(POLLS):
        for task in tasks:
            found = await desk.get(task.id)
            assert found is not None
            assert found.status == "working"
    async with worker(plane, "late", hands):
        for task in tasks:
            while not ((found := await desk.get(task.id)) and found.over):  # noqa: ASYNC110 - a host polls
                await asyncio.sleep(0.02)
            assert found.status == "completed"


async def test_what_is_cancelled_is_seen_to_be(desk: Desk) -> None:
    task = await desk.submit(Called("nobody", "t", {}), 60, 1)
    for _ in range(5):
        assert await desk.get(task.id)
    await desk.cancel(task.id)
    found = await desk.get(task.id)
    assert found is not None
    assert found.status == "cancelled"


async def test_a_list_says_which_tools_have_failed(plane: str, desk: Desk) -> None:
    hands = Hands({"content": [], "isError": True}, {"content": []})
    async with worker(plane, "moody", hands):
        for _ in range(2):
            task = await desk.submit(Called("moody", "t", {}), 60, 1)
            await desk.wait(task.id)
    assert {each.status_in(modern=False) for each in await desk.all()} == {"failed", "completed"}
    assert {each.status_in(modern=True) for each in await desk.all()} == {"completed"}


async def test_a_tool_whose_result_was_too_large_for_a_job_is_known(plane: str, mesh: Mesh, desk: Desk) -> None:
    called = Called("verbose", "t", {})
    async with worker(plane, "verbose", Hands("x" * mesh.connection.max_payload)):
        task = await desk.wait((await desk.submit(called, 60, 1)).id)
    assert task is not None
    assert (task.status, task.error and task.error["data"]["mesh"]) == ("failed", "too_large")
    assert desk.too_large(called)
    assert not desk.too_large(Called("verbose", "other", {}))
