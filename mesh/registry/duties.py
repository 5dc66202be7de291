"""What the control plane does by itself, for as long as it runs. Each duty may be done by several control planes at once, and again."""

import asyncio
import itertools
import random
from collections.abc import Coroutine, Mapping
from typing import Any, Final, Protocol

import structlog

from mesh.broker.schedules import Schedules
from mesh.delivery import keep_given_up, keep_unread
from mesh.events import keep_room
from mesh.jobs import end_old
from mesh.link.jetstream import JetStream
from mesh.policy.retry import Backoff
from mesh.registry.sight import Sight
from mesh.registry.strays import keep_clean
from mesh.subjects import Subjects

_AGAIN: Final = Backoff(first=1.0, longest=60.0)

_log: Final = structlog.get_logger("mesh.registry")


class Duty(Protocol):
    def __call__(self, js: JetStream, subjects: Subjects, sight: Sight, /) -> Coroutine[Any, Any, None]:
        """Until it is cancelled."""


async def _keep_given_up(js: JetStream, subjects: Subjects, _: Sight) -> None:
    await keep_given_up(js, subjects)


async def _send_what_is_due(js: JetStream, subjects: Subjects, sight: Sight) -> None:
    await Schedules(js, subjects, sight.check_sends).send_due()


async def _keep_schedules(js: JetStream, subjects: Subjects, sight: Sight) -> None:
    await Schedules(js, subjects, sight.check_sends).keep_all()


async def _keep_unread(js: JetStream, subjects: Subjects, _: Sight) -> None:
    await keep_unread(js, subjects)


async def _keep_clean(js: JetStream, subjects: Subjects, _: Sight) -> None:
    await keep_clean(js, subjects)


async def _end_old(js: JetStream, subjects: Subjects, _: Sight) -> None:
    await end_old(js, subjects)


DUTIES: Final[Mapping[str, Duty]] = {
    "what the broker gave up": _keep_given_up,
    "messages that nobody reads": _keep_unread,
    "jobs that nobody does": _end_old,
    "room for events": keep_room,
    "what strayed into streams": _keep_clean,
    "messages that are due": _send_what_is_due,
    "what is scheduled": _keep_schedules,
}


async def do(what: str, js: JetStream, subjects: Subjects, sight: Sight, duties: Mapping[str, Duty] = DUTIES) -> None:
    """One of them, until this is cancelled. A duty bears what the broker may answer; where one fails all the same, it begins again."""
    for attempt in itertools.count(1):
        try:
            await duties[what](js, subjects, sight)
        except Exception:
            _log.exception("a duty of the control plane failed, and begins again", duty=what)
        await asyncio.sleep(_AGAIN.wait(attempt, random.random()))
