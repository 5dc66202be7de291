"""What the control plane is asked, and answers after a look at the rights of who asks.

| method        | params           | result                      | what for                                                       |
|---------------|------------------|-----------------------------|----------------------------------------------------------------|
| `mesh/reader` | `ReaderQuestion` | `{"consumer"}`, or a `Made` | to read a bucket, or the journal (`mesh.registry.readers`)     |
| `mesh/lanes`  | `LanesQuestion`  | `{"lanes"}`                 | to receive messages (`mesh.broker.lanes`)                      |
| `mesh/mailbox` | `MailboxQuestion` | `{"mailboxes"}`            | how much waits for a name (`mesh.broker.lanes`)                |
| `mesh/schedule` | `make_schedule`'s | `{"id"}`                 | to send a message later (`mesh.broker.schedules`)              |
| `mesh/schedules` | none          | `{"schedules"}`             | the asker's own                                                |
| `mesh/unschedule` | `{"id"}`     | `{}`                        | to send one of them no more                                    |
| `mesh/subscribe` | `SubscribeQuestion` | `{"consumers"}`       | to hear events (`mesh.events.subscriptions`)                   |
| `mesh/unsubscribe` | `UnsubscribeQuestion` | `{}`              | never again                                                    |
| `mesh/subscriptions` | `SubscriptionsQuestion` | `{"subscriptions"}` | which there are                                            |
| `mesh/schema` | `SchemaQuestion` | by what is asked            | schemas of topics (`mesh.events.schema_desk`)                  |
| `mesh/jobs/…`   | see `mesh.jobs.desk` |                           | jobs, for who asked for them and who does them                 |
| `mesh/flow` | `Flows.answer`'s | `{"consumer"}`, or `{"stored"}` | to read a durable stream, or how far it is (`mesh.streams.flows`) |

A room answers its own questions: here stands who may ask them.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from mesh.broker.lanes import make_lanes, measure, measure_all
from mesh.broker.schedules import Schedules
from mesh.errors import Denied, MalformedMessage
from mesh.events import Subscriptions
from mesh.events.schema_desk import SchemaDesk
from mesh.jobs import JobDesk
from mesh.link.jetstream import JetStream
from mesh.link.reader import INACTIVE, make_consumer
from mesh.registry.readers import make_reader, secret_name
from mesh.registry.sight import Sight
from mesh.streams import Flows
from mesh.subjects import Subjects
from mesh.topology import EVENTS, HANDLED, HEALTH, JOURNAL, REGISTRY, SCHEMAS, ConsumerSpec
from mesh.wire.entries import (
    LanesQuestion,
    MailboxQuestion,
    ReaderQuestion,
    SubscribeQuestion,
    SubscriptionsQuestion,
    UnsubscribeQuestion,
    read,
)
from mesh.wire.reading import read_object

Answer = Callable[[str, bytes], Awaitable[dict[str, Any]]]
"""Of the caller and its params. Raises MalformedMessage where these are none, and MeshError."""


class Desk:
    def __init__(self, js: JetStream, subjects: Subjects, sight: Sight) -> None:
        self._js = js
        self._subjects = subjects
        self._sight = sight
        self._schedules = Schedules(js, subjects, sight.check_sends)
        subscriptions = Subscriptions(js, subjects, sight)
        jobs = JobDesk(js, subjects, sight.check_receives, sight.is_operator)
        self.methods: Final[Mapping[str, Answer]] = {
            "mesh/reader": self._reader,
            "mesh/lanes": self._lanes,
            "mesh/mailbox": self._mailbox,
            "mesh/subscribe": lambda caller, params: subscriptions.subscribe(caller, read(SubscribeQuestion, params)),
            "mesh/unsubscribe": lambda caller, params: subscriptions.unsubscribe(caller, read(UnsubscribeQuestion, params)),
            "mesh/subscriptions": lambda caller, params: subscriptions.describe(caller, read(SubscriptionsQuestion, params)),
            "mesh/schema": SchemaDesk(js, sight).answer,
            "mesh/jobs/get": jobs.get,
            "mesh/jobs/list": jobs.list,
            "mesh/jobs/cancel": jobs.cancel,
            "mesh/jobs/lane": jobs.lane,
            "mesh/jobs/look": jobs.look,
            "mesh/flow": Flows(js, subjects).answer,
            "mesh/schedule": self._schedule,
            "mesh/schedules": self._schedules_of,
            "mesh/unschedule": self._unschedule,
        }

    async def answer(self, method: str, caller: str, params: bytes) -> dict[str, Any]:
        """`method` is one of `methods`. Raises MalformedMessage, Denied and other MeshErrors."""
        return await self.methods[method](caller, params)

    async def _reader(self, caller: str, params: bytes) -> dict[str, Any]:
        asked = read(ReaderQuestion, params)
        if asked.bucket in (REGISTRY, HEALTH, HANDLED):
            return {"consumer": await make_reader(self._js, asked.bucket, self._sight.keys(caller, asked.bucket))}
        if asked.bucket == SCHEMAS:
            return {"consumer": await make_reader(self._js, SCHEMAS, self._sight.schemas(caller, asked.filters))}
        if asked.stream == JOURNAL:
            self._sight.check_reads(caller, asked.stream)
            return (await make_consumer(self._js, _stream_reader(asked)))._asdict()
        if asked.stream == EVENTS:
            for each in asked.filters or (self._subjects.events(), self._subjects.casts()):
                self._sight.check_hears(caller, each)
            return (await make_consumer(self._js, _stream_reader(asked)))._asdict()
        raise MalformedMessage(f"nobody may read {asked.bucket or asked.stream!r}")

    async def _lanes(self, caller: str, params: bytes) -> dict[str, Any]:
        asked = read(LanesQuestion, params)
        self._sight.check_receives(caller, asked.target)
        return {"lanes": await make_lanes(self._js, self._subjects, asked.target, asked.wanted)}

    async def _mailbox(self, caller: str, params: bytes) -> dict[str, Any]:
        target = read(MailboxQuestion, params).target
        if target:
            self._sight.check_sends_or_receives(caller, target)
            return {"mailboxes": [await measure(self._js, self._subjects, target)]}
        if not self._sight.rules(caller):
            raise Denied(f"{caller!r} may not see what waits for everybody", hint="say for whom: `mesh mailbox NAME`")
        return {"mailboxes": await measure_all(self._js, self._subjects)}

    async def _schedule(self, caller: str, params: bytes) -> dict[str, Any]:
        return await self._schedules.add(caller, read_object(params, "a schedule"))

    async def _schedules_of(self, caller: str, _: bytes) -> dict[str, Any]:
        return await self._schedules.list(caller)

    async def _unschedule(self, caller: str, params: bytes) -> dict[str, Any]:
        return await self._schedules.cancel(caller, read_object(params, "a schedule"))


def _stream_reader(asked: ReaderQuestion) -> ConsumerSpec:
    return ConsumerSpec(
        stream=asked.stream,
        name=secret_name(),
        filters=asked.filters,
        durable=False,
        ack="none",
        start_seq=asked.start_seq,
        start_time_ns=None if asked.start_seq is not None else asked.start_time_ns,
        inactive_threshold=INACTIVE,
        memory=True,
        replicas=1,
    )
