"""`mesh jobs`, as a person runs it."""

import asyncio
import signal
from pathlib import Path

import pytest

from mesh.cli.job_bar import bar_text
from mesh.jobs import JobRecord, Reject
from tests.cli_helpers import mesh, started
from tests.conftest import Broker
from tests.job_world import Hands, forever, worker


def test_the_bar() -> None:
    job = JobRecord(id="1-a", target="t", caller="c", method="tools/call", name="n", state="running", created_ns=0, updated_ns=0)
    assert bar_text(job, 10) == "running"
    half = JobRecord(
        id="1-a",
        target="t",
        caller="c",
        method="m",
        name="n",
        state="running",
        created_ns=0,
        updated_ns=0,
        progress=2,
        total=4,
        message="\x1b[2J!",
    )
    assert bar_text(half, 10).startswith("[#####.....] 2/4 ")
    assert "\x1b" not in bar_text(half, 10)


async def test_submitted_listed_shown_and_waited_for(broker: Broker, plane: str, tmp_path: Path) -> None:
    sent = await mesh("jobs", "submit", "hand", "t", "n:=1", "--key", "k", *broker.options, cwd=tmp_path)
    assert sent.code == 0
    id = sent.out.strip()
    listed = await mesh("jobs", "list", *broker.options, cwd=tmp_path)
    assert f"{id}  queued" in listed.out
    async with worker(broker.url, "hand", Hands({"content": [{"type": "text", "text": "made"}]}, Reject("not mine"))):
        waited = await mesh("jobs", "wait", id, *broker.options, cwd=tmp_path)
        assert (waited.code, waited.out.strip()) == (0, "made")
        failed = await mesh("jobs", "submit", "hand", "t", "--wait", *broker.options, cwd=tmp_path)
        assert failed.code == 1
        assert "not mine" in failed.err
    shown = await mesh("jobs", "show", id, "--json", *broker.options, cwd=tmp_path)
    assert (shown.json["state"], shown.json["result"]["content"][0]["text"]) == ("done", "made")
    listed = await mesh("jobs", "list", "--most", "2", "--json", *broker.options, cwd=tmp_path)
    assert [each["state"] for each in listed.json] == ["failed", "done"]
    unknown = await mesh("jobs", "show", "7-aaaa", *broker.options, cwd=tmp_path)
    assert unknown.code == 1
    theirs = await mesh("jobs", "list", "--all", "--json", "--name", "operator", *broker.options, cwd=tmp_path)
    assert id in [each["id"] for each in theirs.json]
    assert (await mesh("jobs", "list", "--all", *broker.options, cwd=tmp_path)).code == 1


async def test_who_submits_to_a_name_that_nobody_has_is_told(broker: Broker, plane: str, tmp_path: Path) -> None:
    sent = await mesh("jobs", "submit", "hnad", "t", *broker.options, cwd=tmp_path)
    assert (sent.code, sent.out.count("\n")) == (0, 1)
    assert "no agent is here as 'hnad': the job waits for who answers to that name. " in sent.err
    async with started("jobs", "submit", "hnad", "t", "--wait", *broker.options, cwd=tmp_path) as waits:
        assert waits.stderr is not None
        async with asyncio.timeout(20):
            assert b"no agent is here as 'hnad'" in await waits.stderr.readline()
    async with worker(broker.url, "new-hand", Hands({"content": []})):
        begun = await mesh("jobs", "submit", "new-hand", "t", *broker.options, cwd=tmp_path)
    assert (begun.code, begun.err) == (0, ""), "who only does jobs is nobody's agent, and there all the same"


@pytest.mark.parametrize("options", [(), ("--json",)])
async def test_ctrl_c_leaves_and_the_job_goes_on(broker: Broker, plane: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    hands = Hands(forever)
    async with worker(broker.url, "busy", hands):
        async with started("jobs", "submit", "busy", "t", "--wait", *options, *broker.options, cwd=tmp_path) as waiting:
            await hands.until(lambda h: h.got)
            waiting.send_signal(signal.SIGINT)
            async with asyncio.timeout(10):
                _, err = await waiting.communicate()
        id = hands.got[0].id
        assert f"mesh jobs wait {id}" in err.decode()
        assert hands.stopped == 0
        ended = await mesh("jobs", "cancel", id, *broker.options, cwd=tmp_path)
        assert ended.out.strip() == "cancelled"
        await hands.until(lambda h: h.stopped)
