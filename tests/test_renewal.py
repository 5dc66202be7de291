"""Credentials that expire: renewed in time nobody loses a call, renewed too late who was shut out comes back, and revoked they end."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from mesh import Mesh, clock
from mesh.errors import Disconnected, NotAdmitted
from mesh.identity import keeper
from mesh.identity.keeper import Keeper
from mesh.identity.push import push
from mesh.link.connection import Connection
from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Recorder, Signals, hold, serving, up
from tests.test_exchanges import square

pytestmark = CUT_WARNINGS

LIFETIME = timedelta(seconds=3)


@asynccontextmanager
async def kept(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """As `mesh up` does it, for lifetimes of seconds."""
    monkeypatch.setattr(keeper, "LOOK_SECONDS", 0.2)
    task = asyncio.create_task(Keeper(broker.authority, broker.url, None, dict).run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def member(broker: Broker, name: str, *roles: str, expires: timedelta | None = None) -> Mesh:
    issued = broker.authority.issue(name, roles, expires=expires)
    if issued.account_changed:
        await push(broker.authority, broker.url)
    return Mesh(name=name, broker=broker.url, credentials=issued.path)


class Returns:
    """How often a connection came back."""

    def __init__(self, connection: Connection) -> None:
        self.count = 0
        self.signals = Signals()
        connection.on_up(self._on_up)

    def _on_up(self) -> None:
        self.count += 1
        self.signals.tell()

    async def reach(self, count: int) -> None:
        await self.signals.until(lambda: self.count >= count, timeout=20)


class Rain:
    """Calls that begin whether or not others have ended: some begin in every moment of a break."""

    def __init__(self, mesh: Mesh, agent: str) -> None:
        self._mesh = mesh
        self._agent = agent
        self.calls: list[asyncio.Task[dict[str, Any]]] = []

    async def fall(self, until: asyncio.Future[Any]) -> None:
        for n in itertools.count():
            arguments = {"n": n, "wait": (0, 0.01, 0.1, 0.5)[n % 4]}
            self.calls.append(asyncio.create_task(self._mesh.call(self._agent, "square", arguments)))
            done, _ = await asyncio.wait([until], timeout=0.003)
            if done:
                break
        results = await asyncio.gather(*self.calls, return_exceptions=True)
        failed = [each for each in results if isinstance(each, BaseException)]
        assert failed == []
        assert results == [{"square": n**2} for n in range(len(self.calls))]


async def test_no_call_is_lost_over_the_expiry_of_either_side(plane: str, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Recorder(square)
    async with (
        asyncio.timeout(40),
        await member(broker, "renewed-worker", "agent", expires=LIFETIME) as there,
        await member(broker, "renewed-caller", "host", expires=LIFETIME) as here,
        kept(broker, monkeypatch),
        there.present(worker),
    ):
        await Rain(here, "renewed-worker").fall(asyncio.gather(*(Returns(each.connection).reach(2) for each in (there, here))))
    assert max(worker.ran.values()) == 1


async def test_who_was_not_renewed_in_time_is_told_so_and_comes_back_with_the_file(plane: str, broker: Broker) -> None:
    worker = Recorder(hold)
    async with (
        asyncio.timeout(30),
        serving(plane, "patient", worker),
        await member(broker, "late", "host", expires=timedelta(seconds=2)) as late,
    ):
        pending = asyncio.create_task(late.call("patient", "work"))
        with pytest.raises(Disconnected, match="'late' any more: its credentials have expired; the call may have run"):
            await pending
        with pytest.raises(NotAdmitted, match="have expired") as caught:
            await late.call("patient", "work")
        assert "mesh auth issue late" in caught.value.hint
        broker.authority.issue("late", ("host",))
        begun = clock.monotonic()
        await up(late.connection)
        assert clock.monotonic() - begun < 5
        again = asyncio.create_task(late.call("patient", "work"))
        await worker.signals.until(lambda: len(worker.calls) == 2)
        again.cancel()


async def test_who_is_revoked_is_cut_off_and_its_calls_end(plane: str, broker: Broker) -> None:
    worker = Recorder(hold)
    async with (
        asyncio.timeout(30),
        serving(plane, "witness", worker),
        await member(broker, "traitor", "host") as traitor,
        await member(broker, "loyal", "host") as loyal,
    ):
        theirs, others = (asyncio.create_task(each.call("witness", "work")) for each in (traitor, loyal))
        await worker.signals.until(lambda: len(worker.calls) == 2)
        cut = asyncio.Event()
        traitor.connection.on_down(cut.set)
        async with asyncio.timeout(2):
            broker.authority.revoke("traitor")
            await push(broker.authority, broker.url)
            await cut.wait()
        with pytest.raises(Disconnected, match="'traitor' any more: its credentials were revoked; the call may have run"):
            async with asyncio.timeout(2):
                await theirs
        with pytest.raises(NotAdmitted, match="were revoked"):
            await traitor.call("witness", "work")
        its_own = [call.id for call in worker.calls if call.caller == "traitor"]
        await worker.signals.until(lambda: worker.cancelled == its_own)  # nobody works for it any more
        assert not others.done()
        others.cancel()
