"""What the control plane does by itself, for as long as it runs. Each duty may be done by several control planes at once, and again."""

from collections.abc import Coroutine, Mapping
from typing import Any, Final, Protocol

from mesh.broker.schedules import Schedules
from mesh.delivery import keep_given_up, keep_unread
from mesh.events import keep_room
from mesh.jobs import end_old
from mesh.link.jetstream import JetStream
from mesh.registry.sight import Sight
from mesh.registry.strays import keep_clean
from mesh.subjects import Subjects


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
