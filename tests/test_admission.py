"""Which call runs next: the pure rule, and calls through a real broker."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh import Mesh
from mesh.errors import Busy, ConfigError
from mesh.link.call import Call
from mesh.link.responder import GATHER_FROM
from mesh.policy.admission import Admission, Verdict
from mesh.rpc import build_request
from mesh.wire.jsonrpc import Frame, dumps
from tests.conftest import Broker


def test_callers_take_turns() -> None:
    admission: Admission[str] = Admission(at_once=1)
    assert admission.arrive("a", "a0") is Verdict.RUN
    for call in ("a1", "a2", "a3"):
        assert admission.arrive("a", call) is Verdict.WAIT
    assert admission.arrive("b", "b1") is Verdict.WAIT
    order, now = [], "a0"
    while (following := admission.end(now[0], now)) is not None:
        order.append(following)
        now = following
    assert order == ["a1", "b1", "a2", "a3"]


def test_at_the_bound_a_call_is_refused_and_nothing_else_changes() -> None:
    admission: Admission[str] = Admission(at_once=1, most_waiting=1)
    assert [admission.arrive("a", str(n)) for n in range(4)] == [Verdict.RUN, Verdict.WAIT, Verdict.REFUSE, Verdict.REFUSE]
    assert admission.end("a", "2") is None
    assert admission.end("a", "0") == "1"


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=80), st.integers(1, 4))
def test_never_more_than_allowed_and_none_is_forgotten(steps: list[tuple[str, bool]], at_once: int) -> None:
    admission: Admission[str] = Admission(at_once=at_once, most_waiting=1_000)
    running: list[str] = []
    arrived, ended = 0, 0
    for caller, arrives in steps:
        if arrives or not running:
            call = f"{caller}{arrived}"
            arrived += 1
            if admission.arrive(caller, call) is Verdict.RUN:
                running.append(call)
        else:
            done = running.pop(0)
            ended += 1
            if (following := admission.end(done[0], done)) is not None:
                running.append(following)
        assert len(running) <= at_once
        assert len(running) + admission.waiting == arrived - ended
        assert len(running) == min(at_once, arrived - ended)


def ignore(_: object) -> None:
    """What comes for a subscription here is of no interest."""


class Slow:
    """Holds each call until it is told to let one go."""

    def __init__(self) -> None:
        self.held: asyncio.Queue[Call] = asyncio.Queue()
        self.cancelled: list[str] = []
        self.most = 0

    def on_call(self, call: Call) -> None:
        self.held.put_nowait(call)
        self.most = max(self.most, self.held.qsize())

    def on_cancel(self, call: Call, reason: str) -> None:
        self.cancelled.append(call.caller)

    def on_message(self, caller: str, reply: str, frame: Frame) -> None:
        pass


async def test_a_caller_with_many_calls_does_not_starve_one_with_few(broker: Broker) -> None:
    slow = Slow()
    async with (
        asyncio.timeout(30),
        Mesh(name="mesh", broker=broker.url) as plane,
        plane.control_plane(),
        Mesh(name="slow", broker=broker.url) as agent,
        agent.present(slow, at_once=2),
        Mesh(name="greedy", broker=broker.url) as greedy,
        Mesh(name="modest", broker=broker.url) as modest,
    ):
        many = [asyncio.create_task(greedy.call("slow", "x")) for _ in range(40)]
        first = await slow.held.get()
        await modest.target("slow")
        few = [asyncio.create_task(modest.call("slow", "x")) for _ in range(2)]
        await asyncio.sleep(0)  # the two are sent
        await modest.connection.flush()  # the broker has them
        await agent.connection.flush()  # the agent has them
        order: list[str] = []
        call = first
        for _ in range(42):
            order.append(call.caller)
            call.finish(dumps({"jsonrpc": "2.0", "id": call.id, "result": {}}))
            if len(order) < 42:
                call = await slow.held.get()
        await asyncio.gather(*many, *few)
        assert slow.most <= 2
        assert Counter(order) == {"greedy": 40, "modest": 2}
        assert order.index("modest") < 10


async def test_over_the_bound_the_error_is_busy_and_says_when_to_come_back(broker: Broker) -> None:
    slow = Slow()
    async with (
        asyncio.timeout(30),
        Mesh(name="mesh", broker=broker.url) as plane,
        plane.control_plane(),
        Mesh(name="full", broker=broker.url) as agent,
        agent.present(slow, at_once=1) as presence,
        Mesh(name="caller", broker=broker.url) as caller,
    ):
        presence._responder._admission = Admission(at_once=1, most_waiting=3)
        held = [asyncio.create_task(caller.call("full", "x")) for _ in range(4)]
        await slow.held.get()
        with pytest.raises(Busy) as caught:
            await caller.call("full", "x")
        assert caught.value.retryable
        assert caught.value.details["retry_after"] == 1.0
        for task in held:
            task.cancel()
        await asyncio.gather(*held, return_exceptions=True)


async def test_calls_that_last_make_no_other_wait_for_a_group(broker: Broker) -> None:
    """Subscriptions are open for hours. However many there are, the answer to a single call goes out at once."""
    slow = Slow()
    async with (
        asyncio.timeout(30),
        Mesh(name="mesh", broker=broker.url) as plane,
        plane.control_plane(),
        Mesh(name="lasting", broker=broker.url) as agent,
        agent.present(slow) as presence,
        Mesh(name="caller", broker=broker.url) as caller,
    ):
        target = await caller.target("lasting")
        for _ in range(GATHER_FROM + 4):
            lasting = caller.exchanges.open(target, "subscriptions/listen", on_frame=ignore, on_failure=ignore, timeout=None)
            lasting.send(build_request(lasting.id, "subscriptions/listen", {}))
            await slow.held.get()
        single = asyncio.create_task(caller.call("lasting", "x"))
        call = await slow.held.get()
        call.finish(dumps({"jsonrpc": "2.0", "id": call.id, "result": {"ok": True}}))
        assert presence._responder._gathered == []
        assert await single == {"ok": True}


async def test_arguments_that_are_no_json_leave_no_gap_in_the_count(broker: Broker) -> None:
    slow = Slow()
    async with (
        asyncio.timeout(30),
        Mesh(name="mesh", broker=broker.url) as plane,
        plane.control_plane(),
        Mesh(name="counted", broker=broker.url) as agent,
        agent.present(slow),
        Mesh(name="caller", broker=broker.url) as caller,
    ):
        with pytest.raises(ConfigError, match="no JSON"):
            await caller.call("counted", "x", {"what": object()})
        task = asyncio.create_task(caller.call("counted", "x"))
        call = await slow.held.get()
        assert call.exchange == "1"
        call.finish(dumps({"jsonrpc": "2.0", "id": call.id, "result": {}}))
        await task
