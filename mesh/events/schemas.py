"""`mesh.events.schemas`: the schemas of topics, as one participant sees them.

A live copy of what of the bucket `schemas` it may see (`BucketView`), read when it first publishes or hears an event, and from then on the
broker tells of each new version: nothing is asked again, and no control plane need run. A version is compiled when its topic is first used.

An event that is published says the newest version as its `dataschema`, and fits it, or is not sent (`InvalidEvent`). An event that is
received is lifted to the newest version, or is a dead letter `invalid`. Why a second look: the broker holds nobody to a schema, so somebody
may publish without this library.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, Self

import structlog

from mesh.delivery import Participant, Reject
from mesh.errors import BadExpression, IncompatibleSchema, InvalidEvent, MalformedMessage, MeshError
from mesh.events.asking import Asking, when_there
from mesh.link.buckets import Entry
from mesh.link.jetstream import JetStream
from mesh.link.view import BucketView
from mesh.policy.schemas import Unfit
from mesh.policy.schemas.lifting import Topic, Version
from mesh.topology import SCHEMAS
from mesh.wire.entries import read
from mesh.wire.event import Event
from mesh.wire.schema import SchemaEntry, schema_uri, version_of

INVALID: Final = "invalid"
"""The code of a dead letter whose data does not fit."""

REGISTER_SECONDS: Final = 30.0

_log = structlog.get_logger("mesh.events")


class Schemas:
    """`async with` it; it reads nothing before it must. Its three methods for events are those that `EventBridge` wants."""

    def __init__(self, me: Participant, make_reader: Callable[[str, tuple[str, ...]], Awaitable[str]]) -> None:
        self._connection = me.connection
        self._subjects = me.subjects
        self._ask = Asking(me)
        self._make_reader = make_reader
        self._entries: dict[str, dict[int, SchemaEntry]] = {}
        """By topic and version."""
        self._keys: dict[str, tuple[str, int]] = {}
        self._topics: dict[str, Topic | None] = {}
        """Compiled; None where a version cannot be: then nothing fits."""
        self._opening = asyncio.Lock()
        self._open = False
        self._seen: tuple[str, ...] = ()
        """The patterns that we look at."""
        self._stack = AsyncExitStack()
        self.invalid = 0
        """Events that came and did not fit."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    # registering

    async def register(
        self,
        topic: str,
        document: Mapping[str, Any],
        *,
        compatibility: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        convert: str = "",
    ) -> int:
        """Register a schema of a topic that we may publish on, and return its version: the one that there is where nothing changed.

        `compatibility` is the topic's rule from now on (`mesh.policy.schemas.compatibility`; default: as it is, `backward` for a new
        topic). `defaults` are what older data lacks, `convert` is CEL over `data` that makes new data out of that of the version before.
        Raises IncompatibleSchema, BadExpression, Denied.
        """
        said = await self._question("register", topic, document, compatibility, defaults, convert)
        version = int(said["version"])
        if self._open and said["new"]:  # what we publish next must fit it, and the broker's word of it may come later
            self._note(SchemaEntry(topic=topic, version=version, document=dict(document), defaults=dict(defaults or {}), convert=convert))
        return version

    async def check_schema(
        self,
        topic: str,
        document: Mapping[str, Any],
        *,
        compatibility: str | None = None,
        defaults: Mapping[str, Any] | None = None,
        convert: str = "",
    ) -> int:
        """Whether it could be registered: the version that it would be. Raises as `register`, and stores nothing."""
        return int((await self._question("check", topic, document, compatibility, defaults, convert))["version"])

    async def list(self, topics: str = ">") -> list[dict[str, Any]]:
        """The versions of all topics that a pattern names and that we may see: `{"topic", "version", "rule", "owner", "by", "at_ns"}`."""
        return list((await self._asked({"do": "list", "topic": topics}))["schemas"])

    async def get(self, topic: str, version: int | None = None) -> dict[str, Any]:
        """One version (default: the newest): as `list`, with `document`, `defaults` and `convert`. Raises ConfigError, Denied."""
        return await self._asked({"do": "get", "topic": topic, **({} if version is None else {"version": version})})

    async def delete(self, topic: str) -> int:
        """Delete all versions of a topic that we own. Returns how many. Raises Denied."""
        return int((await self._asked({"do": "delete", "topic": topic}))["deleted"])

    async def _question(
        self, do: str, topic: str, document: object, rule: str | None, defaults: Mapping[str, Any] | None, convert: str
    ) -> dict[str, Any]:
        if not isinstance(document, Mapping):
            raise IncompatibleSchema("a schema is a JSON object", hint='write {"type": "object", "properties": {…}}')
        asked: dict[str, Any] = {"do": do, "topic": topic, "document": dict(document), "defaults": dict(defaults or {}), "convert": convert}
        said = await self._asked(asked if rule is None else {**asked, "rule": rule})
        if "refused" in said:
            raise _refusal(said["refused"])
        return said

    async def _asked(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return await self._ask("mesh/schema", params, REGISTER_SECONDS)

    # events

    def version(self, topic: str) -> int | None:
        """The newest one of a topic that we know; None where it has no schema."""
        return max(self._entries.get(topic, ()), default=None)

    async def prepare(self, topic: str) -> None:
        """Know the schemas that we may see. Raises NoSuchAgent where no control plane comes that could have the first look prepared."""
        if not self._open:
            async with self._opening:
                await self._read()

    async def _read(self) -> None:
        """A copy for each pattern of our rights: filters of one reader may not overlap, and those of a role may."""
        if self._open:
            return
        await self._stack.aclose()
        self._stack = AsyncExitStack()
        self._stack.callback(self._connection.on_renewed(self._on_renewed))
        before, self._keys, self._seen = self._keys, {}, self._patterns()
        try:
            for live in self._seen:
                await when_there(partial(self._look, live))
        except BaseException:
            self._keys = before | self._keys
            raise
        for key in before.keys() - self._keys.keys():
            self._drop(*before[key])
        self._open = self._seen == self._patterns()

    async def _look(self, live: str) -> None:
        keys = (live.removeprefix(self._subjects.schemas_of().removesuffix(">")),)
        make = partial(self._make_reader, SCHEMAS, keys)
        view = BucketView(JetStream(self._connection), SCHEMAS, live=live, make_reader=make, on_change=self._on_change)
        await self._stack.enter_async_context(view)

    def _patterns(self) -> tuple[str, ...]:
        """What we may hear of the bucket's copies: none for who may neither publish nor hear any topic."""
        everything, rights = self._subjects.schemas_of(), self._connection.rights
        if rights is None or rights.may_hear_all(everything):
            return (everything,)
        return rights.narrow(everything)

    def _on_renewed(self) -> None:
        """Other rights. Where they let us see other schemas, we look anew when we next publish or begin to hear."""
        self._open = self._open and self._seen == self._patterns()

    async def check(self, event: Event) -> Event:
        """The event as it may be published. Raises InvalidEvent."""
        if not self._open:
            await self.prepare(event.topic)
        versions = self._entries.get(event.topic)
        if versions is None:
            return event
        topic = self._compiled(event.topic)
        number = max(versions)
        try:
            _usable(topic).check(event.data)
        except Unfit as problem:
            raise InvalidEvent(
                f"the event does not fit version {number} of the schema of {event.topic!r}: at {problem.path or '/'}: {problem.why}",
                hint=f"`mesh events schemas show {event.topic}` shows the schema",
                topic=event.topic,
                version=number,
                path=problem.path,
                rule=problem.rule,
            ) from None
        event.attributes["dataschema"] = schema_uri(event.topic, number)
        return event

    def admit(self, event: Event) -> Event:
        """The event with data that the newest version allows. Raises Reject with the code `invalid`."""
        if event.topic not in self._entries:
            return event
        try:
            data = _usable(self._compiled(event.topic)).lifted(event.data, version_of(event.attributes, event.topic))
        except Unfit as problem:
            self.invalid += 1
            number = max(self._entries[event.topic])
            raise Reject(f"it does not fit version {number} of the schema: at {problem.path or '/'}: {problem.why}", code=INVALID) from None
        return event if data is event.data else event.with_data(data)

    def _compiled(self, topic: str) -> Topic | None:
        if topic not in self._topics:
            try:
                versions = self._entries[topic].values()
                found = {each.version: Version.of(each.version, each.document, each.defaults, each.convert) for each in versions}
                self._topics[topic] = Topic(found)
            except (MeshError, ValueError) as problem:
                _log.error("a schema cannot be used, so nothing fits it", topic=topic, why=str(problem))
                self._topics[topic] = None
        return self._topics[topic]

    def _on_change(self, key: str, entry: Entry | None, reason: str) -> None:
        if entry is None:
            self._drop(*self._keys.pop(key, ("", 0)))
            return
        try:
            said = read(SchemaEntry, entry.value)
        except MalformedMessage as problem:
            _log.warning("what lies among the schemas is none", key=key, why=str(problem))
            return
        if f"{self._subjects.schemas_of(said.topic)[: -len('.*')]}.{said.version}" != f"{self._subjects.schemas_of()[:-1]}{key}":
            _log.warning("a schema lies under another key than its own", key=key, topic=said.topic)
            return
        self._keys[key] = said.topic, said.version
        self._note(said)

    def _drop(self, topic: str, version: int) -> None:
        versions = self._entries.get(topic, {})
        versions.pop(version, None)
        if not versions:
            self._entries.pop(topic, None)
        self._topics.pop(topic, None)

    def _note(self, entry: SchemaEntry) -> None:
        self._entries.setdefault(entry.topic, {})[entry.version] = entry
        self._topics.pop(entry.topic, None)


def _usable(topic: Topic | None) -> Topic:
    if topic is None:
        raise Unfit("the schema cannot be used here")
    return topic


def _refusal(said: Mapping[str, Any]) -> MeshError:
    kind = BadExpression if said.get("code") == BadExpression.code else IncompatibleSchema
    return kind(str(said.get("message", "")), hint=str(said.get("hint", "")), **said.get("details", {}))
