"""Who publishes or subscribes before there is a control plane."""

import asyncio
import contextlib

import pytest

from mesh.errors import BrokerUnavailable, NoSuchAgent
from mesh.events import asking
from tests.conftest import Broker
from tests.event_world import Heard, hearing, joined
from tests.helpers import Background, control_plane


async def test_with_none_it_is_told_so_after_a_while(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "THERE_SECONDS", 0.2)
    async with joined(broker.url) as mesh:
        with pytest.raises(NoSuchAgent) as refused:
            await mesh.events.publish("early.x", 1)
        assert "mesh up" in refused.value.hint
        with pytest.raises(NoSuchAgent):
            async with hearing(mesh, "early.x", Heard(), "early"):
                pass
        with pytest.raises((NoSuchAgent, BrokerUnavailable)):
            async with hearing(mesh, "early.x", Heard()):
                pass


async def test_where_it_starts_a_moment_later_nobody_notices(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "THERE_SECONDS", 30.0)
    durable, now = Heard(), Heard()
    async with joined(broker.url, "early") as mesh, contextlib.AsyncExitStack() as stack:

        async def begin() -> None:
            await stack.enter_async_context(hearing(mesh, "early.x", durable, "early"))
            await stack.enter_async_context(hearing(mesh, "early.x", now))
            await mesh.events.publish("early.x", 1)

        beginning = asyncio.create_task(begin())
        await asyncio.wait({beginning}, timeout=0.3)
        assert not beginning.done()
        with Background(lambda: control_plane(broker.url)):
            await beginning
            await durable.holds(1)
            await now.holds(1)
