"""The journal against a real broker, with real calls: what was said is found again, in order, complete, and what is not there is known."""

import asyncio
import json
from contextlib import AsyncExitStack, aclosing
from functools import partial
from typing import Any

import pytest

from mesh.audit.calls import JournalCall
from mesh.errors import ApiError, BrokerUnavailable, CallError
from mesh.link.connection import Connection
from mesh.link.jetstream import JetStream
from mesh.link.reconcile import reconcile
from mesh.subjects import ANY
from mesh.topology import JOURNAL, declare
from mesh.wire import control
from mesh.wire.jsonrpc import dumps
from tests.conftest import Broker
from tests.journal_world import SUBJECTS, Caller, World

BARE = True  # what is tested here is below all identities


@pytest.fixture
async def world(broker: Broker):
    """A broker whose journal is empty."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(await Connection.open(broker.url, name="auditor"))
        js = JetStream(connection)
        await reconcile(js, declare())
        await js.api(f"STREAM.DELETE.{JOURNAL}")
        await reconcile(js, declare())
        yield World(broker, stack, connection)


def ids(calls: list[JournalCall]) -> list[str]:
    return [call.correlation_id for call in calls]


async def test_a_journal_that_nothing_was_written_to_is_complete(world: World) -> None:
    assert (await world.journal.check()).complete


async def test_each_outcome_as_it_was(world: World) -> None:
    tools, caller = await world.agent("time"), await world.caller("qa")
    for tool in ("now", "complain", "fail"):
        await caller.call("time", tool)
    cancelled, waiting = await caller.start("time", "hold")
    waiting.cancel()
    held, _ = await caller.start("time", "hold")
    async with asyncio.timeout(5):
        while await tools.came.get() != held:
            pass
    calls = await world.calls()
    assert [(call.name, call.outcome) for call in calls] == [
        ("now", "ok"),
        ("complain", "tool_error"),
        ("fail", "error"),
        ("hold", "cancelled"),
        ("hold", "open"),
    ]
    assert (calls[2].code, calls[2].message) == (-32602, "no such city")
    assert (calls[3].correlation_id, calls[3].message) == (cancelled, "the caller gave up")
    assert (calls[4].correlation_id, calls[4].duration_ms) == (held, None)
    assert all(call.duration_ms is not None and 0 <= call.duration_ms < 5000 for call in calls[:4])
    assert [call.correlation_id.rpartition(".")[2] for call in calls] == ["1", "2", "3", "4", "5"]


async def test_many_callers_at_once(world: World) -> None:
    """60 callers, each with 30 calls at once to three agents; every exchange counter of theirs begins at 1."""
    for agent in ("a0", "a1", "a2"):
        await world.agent(agent)
    callers = [await world.caller(f"caller {n}") for n in range(60)]

    async def all_of(caller: Caller) -> None:
        await asyncio.gather(*(caller.call(f"a{n % 3}", ("now", "complain", "fail")[n % 3], n=n) for n in range(30)))

    async with asyncio.timeout(30):
        await asyncio.gather(*map(all_of, callers))
    calls = await world.calls()
    assert len(calls) == 1800
    assert len(set(ids(calls))) == 1800
    expected = {"a0": ("now", "ok"), "a1": ("complain", "tool_error"), "a2": ("fail", "error")}
    assert all((call.name, call.outcome) == expected[call.target] for call in calls)
    assert [call.time_ns for call in calls] == sorted(call.time_ns for call in calls)
    report = await world.journal.check()
    assert (report.messages, report.calls, report.missing, report.complete) == (3600, 1800, (), True)
    assert report.outcomes == {"ok": 600, "tool_error": 600, "error": 600, "cancelled": 0, "open": 0}
    assert (report.suspects, report.unpaired, report.unplaced, report.duplicates) == (0, 0, 0, 0)


async def test_filters(world: World) -> None:
    await world.agent("time", roles=("clocks",))
    await world.agent("git")
    one, two, time = await world.caller("one"), await world.caller("two"), await world.caller("time")
    a = await one.call("time", "now")
    b = await two.call("git", "log")
    c = await one.call("git", "fail")
    d = await time.call("git", "log")
    e = await two.call("clocks", "now")
    everything = await world.calls()
    assert ids(everything) == [a, b, c, d, e]
    assert ids(await world.calls(caller="one")) == [a, c]
    assert ids(await world.calls(target="git")) == [b, c, d]
    assert ids(await world.calls(caller="one", target="git")) == [c]
    assert ids(await world.calls(agent="time")) == [a, d, e]  # called, calling, and behind the role that was called
    assert ids(await world.calls(agent="time", tool="now")) == [a, e]
    assert ids(await world.calls(tool="log")) == [b, d]
    assert ids(await world.calls(outcome="error")) == [c]
    assert ids(await world.calls(correlation_id=d)) == [d]
    assert ids(await world.calls(since_ns=everything[1].time_ns)) == [b, c, d, e]
    assert ids(await world.calls(until_ns=everything[2].time_ns)) == [a, b, c]
    assert ids(await world.calls(since_ns=everything[1].time_ns, until_ns=everything[2].time_ns, target="git")) == [b, c]
    assert ids(await world.calls(limit=2)) == [a, b]
    assert ids(await world.calls(limit=0)) == []
    assert ids(await world.calls(last=2)) == [d, e]
    assert ids(await world.calls(last=1, target="git")) == [d]
    assert ids(await world.calls(last=99, caller="one")) == [a, c]
    assert ids(await world.calls(caller="nobody")) == []
    assert ids(await world.calls(correlation_id="nonsense")) == []
    assert (everything[4].agent, everything[4].instance) == ("time", "i1")


async def test_the_last_calls_are_found_however_far_back_they_are(world: World) -> None:
    await world.agent("time")
    rare, busy = await world.caller("rare"), await world.caller("busy")
    wanted = [await rare.call("time", "now") for _ in range(3)]
    for _ in range(12):
        await asyncio.gather(*(busy.call("time", "now") for _ in range(100)))
    assert ids(await world.calls(caller="rare", last=2)) == wanted[1:]
    assert ids(await world.calls(tool="now", last=2000))[:3] == wanted


async def test_following(world: World) -> None:
    """Each call comes when it ends: what was open when the following began, too."""
    tools, caller = await world.agent("time"), await world.caller("qa")
    old = [await caller.call("time", "now") for _ in range(3)]
    slow, ended = await caller.start("time", "hold")
    await world.settled(caller.exchanges.connection)
    seen: asyncio.Queue[JournalCall] = asyncio.Queue()

    async def follow(**options: Any) -> None:
        async with aclosing(world.journal.calls(follow=True, **options)) as calls:
            async for call in calls:
                seen.put_nowait(call)

    async with asyncio.timeout(15), asyncio.TaskGroup() as group:
        following = group.create_task(follow(last=2))
        assert [(await seen.get()).correlation_id for _ in range(2)] == old[1:]
        quick = await caller.call("time", "now")
        assert (await seen.get()).correlation_id == quick
        tools.finish(tools.held[slow])
        await ended
        assert (await seen.get()).correlation_id == slow
        following.cancel()

        limited = group.create_task(follow(caller="qa", limit=4))
        await limited
        assert [seen.get_nowait().correlation_id for _ in range(4)] == [*old, quick]


async def test_one_call_in_full(world: World) -> None:
    await world.agent("time", "i5")
    caller = await world.caller("qa")
    await asyncio.gather(*(caller.call("time", "now") for _ in range(50)))
    id = await caller.call("time", "report", city="Zürich")
    await world.settled()
    exchange = await world.journal.show(id)
    assert exchange is not None
    assert [message.what for message in exchange.messages] == ["call", "working", "frame", "progress", "final"]
    assert json.loads(exchange.messages[0].body)["params"]["arguments"] == {"city": "Zürich"}
    assert json.loads(exchange.messages[-1].body)["result"]["content"][0]["text"] == "done"
    assert exchange.messages[2].headers == {control.EXCHANGE_HEADER: id}
    assert tuple(message.seq for message in exchange.messages) == exchange.call.seqs
    assert (exchange.call.outcome, exchange.call.instance, exchange.call.frames) == ("ok", "i5", 4)
    assert json.loads(json.dumps(exchange.as_dict()))["messages"][4]["what"] == "final"
    for other in ("qa.nothing.1", "nonsense", "", "_xZZ_.a.b"):
        assert await world.journal.show(other) is None


async def test_tools_whose_calls_are_not_recorded(world: World) -> None:
    await world.agent("time", "i1")
    caller = await world.caller("qa")
    await caller.call("time", "now")
    secret = await caller.call("time", "secret", password="hunter2")
    await caller.call("time", "hidden", password="hunter2")
    await caller.call("time", "now")
    calls = await world.calls()
    assert [(call.name, call.outcome, call.metadata) for call in calls] == [
        ("now", "ok", False),
        ("secret", "ok", True),
        ("now", "ok", False),
    ]
    record = calls[1]
    assert (record.correlation_id, record.instance, record.caller, record.target) == (secret, "i1", "qa", "time")
    assert record.bytes_in > 0
    assert record.bytes_out > 0
    shown = await world.journal.show(secret)
    assert shown is not None
    assert "record" in [message.what for message in shown.messages]
    assert (await world.journal.check()).missing == ()


async def test_nothing_of_a_quiet_call_is_stored(world: World) -> None:
    await world.agent("time")
    caller = await world.caller("qa")
    await caller.call("time", "secret", password="hunter2")
    await caller.call("time", "hidden", password="hunter2")
    await world.settled()
    report = await world.journal.check()
    assert (report.messages, report.calls) == (1, 1)


async def test_what_does_not_belong_there(world: World) -> None:
    """An ack that a foreign reply subject put into the journal, a forged answer, a header that keeps a call out of it."""
    await world.agent("time")
    caller = await world.caller("qa")
    id = await caller.call("time", "now")
    evil = await world.connect("evil")
    evil.send("$KV.registry.evil.i1", b"{}", SUBJECTS.call("time", ANY, "admin", "tools/call", "rm"))
    evil.send("mesh.v1.reply.qa.evil.x.1", dumps({"jsonrpc": "2.0", "id": id, "result": {}}))
    connection = caller.exchanges.name
    body = {"jsonrpc": "2.0", "id": f"qa.{connection}.2", "method": "tools/call", "params": {"name": "now"}}
    subject, reply = SUBJECTS.call("time", ANY, "qa", "tools/call", "now"), f"{SUBJECTS.reply_prefix('qa', 'time', connection)}2"
    evil.send(subject, dumps(body), reply, {"Nats-Expected-Last-Sequence": "1"})
    await world.settled(evil)
    report = await world.journal.check()
    assert sorted(suspect.reason for suspect in report.suspect) == ['"jsonrpc": "2.0" is missing', "a frame from another than the target"]
    assert [(gap.caller, gap.connection, gap.first, gap.last) for gap in report.missing] == [("qa", connection, 2, 2)]
    assert (report.calls, report.complete) == (1, False)
    assert json.loads(json.dumps(report.as_dict()))["missing_calls"] == 1


async def test_what_was_deleted_is_missing_and_what_was_discarded_is_not(world: World) -> None:
    await world.agent("time")
    caller = await world.caller("qa")
    for _ in range(20):
        await caller.call("time", "now")
    await world.settled()
    js = JetStream(world.connection)
    await js.api(f"STREAM.PURGE.{JOURNAL}", {"seq": 10})
    report = await world.journal.check()
    assert (report.first_seq, report.discarded, report.missing, report.skipped, report.complete) == (10, 9, (), 0, True)
    assert (report.unpaired, report.calls) == (1, 15)
    await js.api(f"STREAM.MSG.DELETE.{JOURNAL}", {"seq": 21})
    report = await world.journal.check()
    assert [(gap.first, gap.last) for gap in report.missing] == [(11, 11)]
    assert (report.skipped, report.complete) == (1, False)
    assert (report.max_msgs, report.near_bounds) == (1_000_000, False)


async def test_after_the_broker_was_killed(world: World, broker: Broker) -> None:
    """What was recorded is there after a kill -9, the counting goes on over the reconnection, and a following reader goes on too."""
    await world.agent("time")
    caller = await world.caller("qa")
    before = [await caller.call("time", "now") for _ in range(20)]
    await world.settled()
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def follow() -> None:
        async with aclosing(world.journal.calls(follow=True)) as calls:
            async for call in calls:
                seen.put_nowait(call.correlation_id)

    following = asyncio.create_task(follow())
    async with asyncio.timeout(40):
        assert [await seen.get() for _ in before] == before
        down = asyncio.Event()
        world.connection.on_down(down.set)
        broker.kill()
        await down.wait()
        await asyncio.to_thread(broker.wait_ready)
        after: list[str] = []
        while len(after) < 20:
            try:
                after.append(await caller.call("time", "now"))
            except (CallError, BrokerUnavailable):
                await asyncio.sleep(0.1)
        await world.settled(caller.exchanges.connection)
        followed: list[str] = []
        while not set(after) <= set(followed):
            followed.append(await seen.get())
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    calls = [call for call in await world.calls() if call.outcome == "ok"]
    assert set(ids(calls)) >= {*before, *after}
    assert len(set(ids(calls))) == len(calls)
    assert len(followed) == len(set(followed))
    assert not set(followed) & set(before)
    report = await world.journal.check()
    assert report.suspects == 0


async def test_a_journal_that_is_not_there(world: World) -> None:
    await JetStream(world.connection).api(f"STREAM.DELETE.{JOURNAL}")
    for read in (partial(world.calls), world.journal.check, partial(world.journal.show, "qa.c.1")):
        with pytest.raises(ApiError):
            await read()
