"""Jobs at their limits: results that nearly fit, values that are no JSON, odd headers, and records that go before their message does."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.delivery import receiver
from mesh.errors import NoSuchAgent, TooLarge
from mesh.jobs import Work, doing
from mesh.jobs.ending import Ending
from mesh.jobs.records import Records
from mesh.link.buckets import Bucket
from mesh.link.jetstream import JetStream
from mesh.rpc import build_request
from mesh.topology import JOB_STATES, bucket_stream
from mesh.wire.job import JOB_HEADER, JobRecord, job_id
from mesh.wire.letter import ROOM
from tests.conftest import Broker
from tests.helpers import control_plane
from tests.job_world import Hands, joined, worker


@pytest.fixture(autouse=True)
async def plane(broker: Broker) -> AsyncIterator[None]:
    async with control_plane(broker.url):
        yield


async def test_a_result_that_fits_is_kept_whatever_was_reported_with_it(broker: Broker) -> None:
    async def nearly(work: Work) -> Any:
        work.progress(1, 1, "ü" * 1000)
        room = mesh.connection.max_payload - ROOM
        empty = len(b'{"content":[{"type":"text","text":""}]}')
        return {"content": [{"type": "text", "text": "x" * (room - empty)}]}

    hands = Hands(nearly)
    async with worker(broker.url, "ada", hands), joined(broker.url) as mesh:
        job = await mesh.jobs.wait((await mesh.jobs.submit("ada", "t" * 100)).id, 20)
    assert (job.state, job.error, len(hands.got)) == ("done", None, 1)


def circle() -> Any:
    it: list[Any] = []
    it.append(it)
    return it


@pytest.mark.parametrize("value", [{("a", 1): 2}, circle()])
async def test_what_is_no_json_is_a_clear_failure_at_once(broker: Broker, value: Any) -> None:
    hands = Hands(lambda _: asyncio.sleep(0, value))
    async with worker(broker.url, "bea", hands), joined(broker.url) as boss:
        job = await boss.jobs.wait((await boss.jobs.submit("bea", "t")).id, 10)
    assert (job.state, job.attempts, job.error and job.error["data"]["mesh"]) == ("failed", 1, "malformed")


async def test_arguments_that_cannot_be_read_are_not_tried_again(broker: Broker) -> None:
    body = build_request("x", "tools/call", {"name": "t", "arguments": {"a": 1}}).replace(b"1}", b"[" * 3000 + b"]" * 3000 + b"}")
    async with worker(broker.url, "deb", Hands()), joined(broker.url) as boss:
        job = await boss.jobs.wait(await stored(boss, "deb", body, {"nonce": "abc", "attempts": 3, "keep": 100}), 10)
    assert (job.state, job.attempts, job.error and job.error["data"]["mesh"]) == ("failed", 1, "malformed")


@pytest.mark.parametrize("header", [{"nonce": "a", "attempts": True, "keep": 5}, {"nonce": "b", "attempts": 1, "keep": True}])
async def test_a_job_that_says_odd_things_spoils_nobodys_list(broker: Broker, header: dict[str, Any]) -> None:
    async with joined(broker.url, "mallory") as mallory, joined(broker.url, "operator") as operator:
        await stored(mallory, "nobody", build_request("x", "tools/call", {"name": "t", "arguments": {}}), header)
        assert header["nonce"] not in [job.nonce for job in await operator.jobs.list(all=True)]


async def stored(mesh: Mesh, target: str, body: bytes, header: dict[str, Any]) -> str:
    """The id of a job as somebody's own code may write it."""
    js = JetStream(mesh.connection)
    subject = mesh.subjects.job(target, mesh.name, "tools/call", "t")
    ack = await js.publish(subject, body, headers={JOB_HEADER: json.dumps(header)})
    return job_id(ack.seq, header["nonce"])


async def test_what_is_cancelled_stays_so_though_its_message_was_left_and_it_was_kept_for_a_second(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control plane may be killed between the record and the message, as a worker may be before its acknowledgement."""

    async def killed(*_: object) -> None:
        return

    hands = Hands()
    async with joined(broker.url) as boss, joined(broker.url, "mesh") as mesh:
        monkeypatch.setattr(Ending, "take_away", killed)
        job = await boss.jobs.submit("gil", "t", {"n": 1}, keep=1)
        await boss.jobs.cancel(job.id)
        second = Bucket(JetStream(mesh.connection), JOB_STATES)  # the broker's clock: its key goes when the record would
        await second.put("a.clock.x", b"{}", ttl=2)
        while await second.get("a.clock.x") is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        async with worker(broker.url, "gil", hands):
            await boss.jobs.wait((await boss.jobs.submit("gil", "t", {"n": 2})).id, 15)
    assert [work.arguments["n"] for work in hands.got] == [2]


async def test_a_result_for_which_there_is_no_room_does_not_hold_its_worker_up(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doing, "FULL", 0.3)
    large = {"content": [{"type": "text", "text": "x" * 900_000}]}
    stream = bucket_stream(JOB_STATES)
    async with joined(broker.url, "operator") as operator, joined(broker.url) as boss:
        js = JetStream(operator.connection)
        info = await js.api(f"STREAM.INFO.{stream}")
        await js.api(f"STREAM.UPDATE.{stream}", {**info["config"], "max_bytes": info["state"]["bytes"] + 1_000_000})
        async with worker(broker.url, "ivy", Hands(large, large, "small")):
            ended = [await boss.jobs.wait((await boss.jobs.submit("ivy", "t")).id, 10) for _ in range(3)]
    assert [job.state for job in ended] == ["done", "failed", "done"]
    assert ended[1].error is not None
    assert ended[1].error["data"]["mesh"] == "mailbox_full"


async def test_who_leaves_while_a_report_is_written_gives_its_attempt_back(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiver, "LEAVE_SECONDS", 0.1)
    written, stopped = asyncio.Event(), asyncio.Event()
    write = Records.write

    async def slow(self: Records, record: JobRecord, revision: int) -> int:
        revision = await write(self, record, revision)
        if record.state == "running" and record.progress is not None:
            written.set()
            await stopped.wait()
        return revision

    async def reports(work: Work) -> Any:
        work.progress(1)
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    monkeypatch.setattr(Records, "write", slow)
    async with joined(broker.url) as boss:
        job = await boss.jobs.submit("jon", "t")
        async with worker(broker.url, "jon", reports):
            await written.wait()
        now = await boss.jobs.get(job.id)
    assert (now.state, now.attempts) == ("queued", 0)


@pytest.mark.parametrize("tool", ["a" * 1025, "🦀" * 200])
async def test_a_tool_whose_name_no_subject_can_say_is_refused_before_it_is_stored(broker: Broker, tool: str) -> None:
    async with joined(broker.url) as boss:
        with pytest.raises(TooLarge):
            await boss.jobs.submit("kim", tool)


async def test_without_a_control_plane_it_is_said_what_to_start(tmp_path: Path) -> None:
    alone = Broker(tmp_path / ".mesh")
    try:
        alone.start()
        async with joined(alone.url) as boss:
            with pytest.raises(NoSuchAgent, match="no control plane") as problem:
                await boss.jobs.get("1-a")
        assert problem.value.hint == "start `mesh up`"
    finally:
        alone.close()
