"""What the control plane does by itself goes on, also after a mistake of ours."""

import asyncio
from typing import Any, cast

import pytest

from mesh.policy.retry import Backoff
from mesh.registry import duties


async def test_a_duty_that_fails_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duties, "_AGAIN", Backoff(first=0.001, longest=0.001))
    begun, third = 0, asyncio.Event()

    async def clumsy(*_: object) -> None:
        nonlocal begun
        begun += 1
        if begun < 3:
            raise KeyError("a mistake of ours")
        third.set()
        await asyncio.Event().wait()

    nothing = cast(Any, None)
    running = asyncio.create_task(duties.do("clumsy", nothing, nothing, nothing, {"clumsy": clumsy}))
    async with asyncio.timeout(5):
        await third.wait()
    assert not running.done()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
