"""The examples: the personas on a mesh of their own, and the five patterns with them, as typed."""

import asyncio
import json
import shlex
import sys
import types
import unittest
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bridge import serve
from examples.personas import qa_manager
from mesh import Mesh
from mesh.errors import Denied
from tests.typed import ROOT, mesh_of, run

PERSONAS = ("engineering-manager", "product-manager", "qa-manager")
PATTERNS = {
    "request": ("approved: True",),
    "fire_and_forget": ("the broker has",),
    "job": ("running", "done 4 of 4: audit log", "roadmap ready: [['sso', 'search'], ['export'], ['audit log'], [], [], []]"),
    "stream": ("'event': 'started'", "'name': 'test_a_circle_is_refused', 'outcome': 'passed'", "'failed': 0, 'stopped': False}"),
    "health": ("local says local is unhealthy",),
}
"""What each says."""


@pytest.fixture(scope="module")
def personas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with mesh_of("examples/personas/mesh.toml", tmp_path_factory.mktemp("personas")) as directory:
        yield directory


def joined(directory: Path) -> Mesh:
    return Mesh(state_dir=directory / ".mesh")


@pytest.mark.parametrize("name", PATTERNS)
def test_a_pattern_runs_as_typed(name: str, personas: Path) -> None:
    out = run([sys.executable, ROOT / f"examples/patterns/{name}.py"], personas)
    assert [said for said in PATTERNS[name] if said not in out] == [], out


def test_every_pattern_is_run() -> None:
    assert {each.stem for each in (ROOT / "examples/patterns").glob("*.py")} == set(PATTERNS)


async def test_an_update_reaches_every_persona(personas: Path) -> None:
    async with joined(personas) as mesh, asyncio.timeout(30):
        await mesh.messages.publish_message(topic="system.update", content={"version": "9.9.9"})
        for name in PERSONAS:
            while "9.9.9" not in str(await mesh.call(name, "recall", {"query": "system.update from local"})):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # nobody tells when a message was handled that nobody waits for


async def test_a_review_finds_what_is_wrong_and_runs_nothing(personas: Path) -> None:
    bad = "import os\ndef _f(a=[]):\n    try:\n        return eval(a) == None\n    except:\n        os.system('true')\n"
    async with joined(personas) as mesh:
        said = await mesh.messages.send_message("engineering-manager", "code_review", {"code": bad}, timeout=30)
        assert (said["approved"], said["functions"], [found["line"] for found in said["findings"]]) == (False, 1, [2, 4, 4, 5, 6])
        assert (await mesh.call("engineering-manager", "code_review", {"code": bad}))["structuredContent"] == said
        said = await mesh.messages.send_message("engineering-manager", "code_review", {"code": "return 1"}, timeout=30)
        assert [(found["line"], found["severity"]) for found in said["findings"]] == [(1, "error")]


async def test_a_plan_has_progress_and_can_be_cancelled(personas: Path) -> None:
    async with joined(personas) as mesh, asyncio.timeout(40):
        content = {"features": [f"feature {n}" for n in range(100)], "pause": 1}
        request = await mesh.messages.request_response("product-manager", "generate_roadmap", content)
        async for job in mesh.jobs.watch(request):
            if job.progress is not None:
                assert (job.total, job.message) == (100, "feature 0")
                break
        assert (await mesh.jobs.cancel(request)).state == "cancelled"


async def test_a_plan_leaves_out_what_does_not_fit(personas: Path) -> None:
    features = [
        {"name": "roof", "effort": 2, "after": ["wall"]},
        {"name": "wall", "effort": 10},
        {"name": "garden", "effort": 9, "value": 1},
    ]
    content = {"features": features, "timeline": "2 months", "pause": 0}
    async with joined(personas) as mesh, asyncio.timeout(30):
        request = await mesh.messages.request_response("product-manager", "roadmap_planner", content)
        job = await mesh.jobs.wait(request)
    assert [month["features"] for month in job.content["months"]] == [[], ["wall", "roof"]]
    assert job.content["left_out"] == ["garden"]


async def test_a_bug_may_be_reported_by_a_message(personas: Path) -> None:
    async with joined(personas) as mesh:
        content = {"action": "report", "title": "it hangs", "priority": "P1"}
        (bug,) = (await mesh.messages.send_message("qa-manager", "bug_tracker", content, timeout=30))["result"]
        assert (bug["open"], bug["due_in_hours"]) == (True, 24)
        await mesh.call("qa-manager", "bug_tracker", {"action": "close", "id": bug["id"]})
        assert (await mesh.call("qa-manager", "bug_tracker"))["structuredContent"] == {"result": []}


async def test_each_tells_who_it_is_and_how_it_is(personas: Path) -> None:
    async with joined(personas) as mesh:
        for name in PERSONAS:
            said = json.loads((await mesh.request(name, "resources/read", {"uri": "persona://profile"}))["contents"][0]["text"])
            assert said["role"] == name
        replay = mesh.events.replay_events("agent.health", datetime(2020, 1, 1, tzinfo=UTC), filter="event.data.status == 'healthy'")
        assert {event.publisher async for event in replay} >= set(PERSONAS)


async def test_a_test_run_takes_commands_and_tells_all_outcomes(plane: str, monkeypatch: pytest.MonkeyPatch) -> None:
    hold = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Various(unittest.TestCase):
        def test_1_passes(self) -> None: ...

        def test_2_fails(self) -> None:
            self.fail("as it should")

        def test_3_breaks(self) -> None:
            raise KeyError("k")

        def test_4_is_skipped(self) -> None:
            self.skipTest("not today")

        def test_5_waits(self) -> None:
            asyncio.run_coroutine_threadsafe(hold.wait(), loop).result(20)

        def test_6_is_never_run(self) -> None: ...

    module: Any = types.ModuleType("various_tests")
    module.Various = Various
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(qa_manager.SUITES, "various", module.__name__)
    async with (
        asyncio.timeout(40),
        serve(qa_manager.server, name="qa", broker=plane, streams=qa_manager.streams),
        Mesh(broker=plane) as mesh,
        await mesh.create_stream("qa", "test_execution") as stream,
    ):
        await stream.send({"action": "start_tests", "suite": "unknown"})
        assert (await stream.receive())["event"] == "refused"
        await stream.send({"action": "start_tests", "suite": "various"})
        assert await stream.receive() == {"event": "started", "suite": "various", "tests": 6}
        assert [(await stream.receive())["outcome"] for _ in range(4)] == ["passed", "failed", "error", "skipped"]
        await stream.send({"action": "stop_tests"})
        await stream.send({"action": "start_tests", "suite": "various"})
        assert (await stream.receive())["event"] == "refused"  # one at a time; and so the one before was heard
        hold.set()
        assert (await stream.receive())["name"] == "test_5_waits"
        assert await stream.receive() == {"event": "finished", "suite": "various", "run": 5, "failed": 2, "stopped": True}
        stream.end()
        assert [each async for each in stream] == []


async def test_who_may_only_hear_the_topic_may_not_publish_on_it(personas: Path) -> None:
    async with Mesh(name="product-manager", state_dir=personas / ".mesh") as persona:
        with pytest.raises(Denied):
            await persona.messages.publish_message(topic="system.update", content="forged")


COMMANDS = [line[2:] for line in (ROOT / "examples/README.md").read_text().splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_their_readme_works_as_typed(command: str, personas: Path) -> None:
    assert run(shlex.split(command), personas).strip()
