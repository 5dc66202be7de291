"""What the control plane answers about schemas: `mesh/schema` (`mesh.wire.schema.SchemaQuestion`).

| `do`       | who may                                              | result                                           |
|------------|------------------------------------------------------|--------------------------------------------------|
| `register` | who may publish on the topic                         | `{"version", "uri", "new"}`, or `{"refused"}`      |
| `check`    | the same                                             | the same; nothing is stored                      |
| `get`      | who may publish or hear it                           | the entry                                        |
| `list`     | everybody                                            | `{"schemas"}`: of the topics that one may see    |
| `delete`   | the owner (who registered version 1), and operators  | `{"deleted"}`: how many versions                 |

Only the owner and operators may loosen a topic's rule, or convert its older events, which others may have published. Of the topic on which
every agent says how it is only operators register schemas. The same schema registered again is no new version. A refusal of the schema
itself is a result, and no error of the call, so that it keeps its code, its hint and its place: `{"refused": {"code", "message", "hint"?,
"details"?}}`.
"""

import asyncio
import json
import sys
from collections.abc import Mapping
from typing import Any, Final, Protocol

from mesh import clock
from mesh.errors import Busy, ConfigError, Denied, IncompatibleSchema, MalformedMessage, Refused
from mesh.link.buckets import Bucket, Entry
from mesh.link.jetstream import JetStream
from mesh.policy.rights.compile import HEALTH_TOPIC
from mesh.policy.schemas import LARGEST, Rule, same
from mesh.subjects import escape, topic_pattern, topic_tokens
from mesh.topology import SCHEMAS
from mesh.wire.entries import read
from mesh.wire.jsonrpc import dumps
from mesh.wire.schema import SchemaEntry, SchemaQuestion, schema_uri

MOST_VERSIONS: Final = 100
"""Of a topic."""
MOST_TOPICS: Final = 200
"""That one participant may own."""
MOST_BYTES: Final = 4 * 1024 * 1024
"""Of all versions of the topics of one owner: the bucket has room for sixteen such owners, and operators can delete."""
MOST_CONVERT: Final = 4096

JUDGE_SECONDS: Final = 15.0
"""For a judgement, the start of its process and waiting for the processor among it."""

_AT_ONCE: Final = 2
"""Judgements."""


class Rights(Protocol):
    """Who may do what (`mesh.registry.sight`)."""

    def check_publishes(self, caller: str, topic: str) -> None:
        """Raises Denied."""

    def sees_topic(self, caller: str, topic: str) -> bool: ...

    def check_sees_topic(self, caller: str, topic: str) -> None:
        """Raises Denied."""

    def rules(self, caller: str) -> bool: ...


class SchemaDesk:
    def __init__(self, js: JetStream, rights: Rights) -> None:
        self._bucket = Bucket(js, SCHEMAS, written_once=True)
        self._rights = rights
        self._judging = asyncio.Semaphore(_AT_ONCE)

    async def answer(self, caller: str, params: bytes) -> dict[str, Any]:
        """Raises MalformedMessage, ConfigError, Denied, Busy and what the broker says."""
        asked = read(SchemaQuestion, params)
        if asked.do == "list":
            return {"schemas": await self._list(caller, asked.topic or ">")}
        _check_topic(asked.topic)
        match asked.do:
            case "get":
                return await self._get(caller, asked)
            case "delete":
                return await self._delete(caller, asked.topic)
            case _:
                self._rights.check_publishes(caller, asked.topic)
                if asked.topic == HEALTH_TOPIC and not self._rights.rules(caller):
                    raise Denied(f"only operators may register schemas of {HEALTH_TOPIC}", hint="every agent publishes there: ask them")
                try:
                    return await self._register(caller, asked)
                except IncompatibleSchema as problem:
                    return {"refused": problem.as_dict()}
                except _Judged as problem:
                    return {"refused": problem.said}

    async def _register(self, caller: str, asked: SchemaQuestion) -> dict[str, Any]:
        if asked.document is None:
            raise MalformedMessage("a schema is registered with its document")
        versions = await self._versions(asked.topic)
        newest = versions[max(versions)][0] if versions else None
        number = 1 if newest is None else newest.version + 1
        rule = Rule(asked.rule or ("backward" if newest is None else newest.rule))
        owner = caller if newest is None else newest.owner
        if newest is not None and asked.convert not in ("", newest.convert) and caller != owner and not self._rights.rules(caller):
            raise Denied(
                f"only {owner!r}, who registered {asked.topic!r} first, and operators may say what its older events become",
                hint="leave the conversion out, or ask them",
            )
        if newest is not None and rule.loosens(Rule(newest.rule)) and caller != owner and not self._rights.rules(caller):
            raise Denied(
                f"only {owner!r}, who registered {asked.topic!r} first, and operators may loosen its rule {newest.rule} to {rule}",
                hint="leave the rule as it is, or ask them",
            )
        entry = SchemaEntry(
            topic=asked.topic,
            version=number,
            document=asked.document,
            rule=rule,
            defaults=asked.defaults,
            convert=asked.convert,
            owner=owner,
            by=caller,
            at_ns=clock.wall_ns(),
        )
        body = entry.encode()
        if len(body) > 2 * LARGEST or len(asked.convert) > MOST_CONVERT:
            raise IncompatibleSchema(f"a schema has at most {LARGEST} bytes, and this has {len(body)} with its defaults and conversion")
        if newest is not None and _same(newest, entry):
            if newest.rule != rule and asked.do == "register":
                changed = newest.model_copy(update={"rule": str(rule)})
                await self._bucket.put(_key(asked.topic, newest.version), changed.encode(), revision=versions[newest.version][1].revision)
            return {"version": newest.version, "uri": schema_uri(asked.topic, newest.version), "new": False}
        if number > MOST_VERSIONS:
            raise IncompatibleSchema(f"a topic has at most {MOST_VERSIONS} versions", hint="begin a new topic, or have this one deleted")
        await self._judge(entry, {version: old.document for version, (old, _) in versions.items()})
        if asked.do == "register":
            await self._check_room(owner, newest is None, len(body))
            there = await self._bucket.get(_key(asked.topic, number))
            if there is not None and _read(there) is None:
                await self._bucket.clear(_key(asked.topic, number))  # an answer of the broker's own, that somebody has had it put there
            try:
                await self._bucket.create(_key(asked.topic, number), body)
            except Refused:
                raise Busy(
                    f"somebody else registered version {number} of {asked.topic!r} just now", hint="look at it, and try again"
                ) from None
        return {"version": number, "uri": schema_uri(asked.topic, number), "new": True}

    async def _judge(self, entry: SchemaEntry, before: Mapping[int, Any]) -> None:
        """Raises _Judged, IncompatibleSchema."""
        question = {
            "document": entry.document,
            "rule": entry.rule,
            "before": before,
            "defaults": entry.defaults,
            "convert": entry.convert,
        }
        async with self._judging:
            program = (sys.executable, "-m", "mesh.policy.schemas.judge")
            judge = await asyncio.create_subprocess_exec(
                *program, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
            try:
                async with asyncio.timeout(JUDGE_SECONDS):
                    out, _ = await judge.communicate(dumps(question))
            except TimeoutError:
                out = b""
            finally:
                if judge.returncode is None:
                    judge.kill()
                    await judge.wait()
        if judge.returncode != 0:
            raise IncompatibleSchema(
                "the schema takes too long to judge, or too much memory", hint="make it smaller, and branch less in it"
            )
        said = json.loads(out)
        if said:
            raise _Judged(said)

    async def _check_room(self, owner: str, first: bool, size: int) -> None:
        found = [_read(each) for each in (await self._bucket.snapshot()).values()]
        mine = [each for each in found if each is not None and each.owner == owner]
        if first and sum(1 for each in mine if each.version == 1) >= MOST_TOPICS:
            raise IncompatibleSchema(f"{owner!r} has registered {MOST_TOPICS} topics, and may own no more", hint="delete those not in use")
        if size + sum(len(each.encode()) for each in mine) > MOST_BYTES:
            raise IncompatibleSchema(
                f"the schemas of {owner!r} have {MOST_BYTES} bytes, and may have no more", hint="delete those not in use"
            )

    async def _get(self, caller: str, asked: SchemaQuestion) -> dict[str, Any]:
        self._rights.check_sees_topic(caller, asked.topic)
        versions = await self._versions(asked.topic)
        if not versions:
            raise ConfigError(f"{asked.topic!r} has no schema", hint="`mesh events schemas list` shows those there are")
        number = max(versions) if asked.version is None else asked.version
        if number not in versions:
            raise ConfigError(f"{asked.topic!r} has no version {number}", hint=f"it has {', '.join(map(str, sorted(versions)))}")
        return versions[number][0].model_dump()

    async def _list(self, caller: str, pattern: str) -> list[dict[str, Any]]:
        words = topic_pattern(pattern)
        found = [_read(each) for each in (await self._bucket.snapshot(words if words.endswith(">") else f"{words}.*")).values()]
        seen = [each for each in found if each is not None and self._rights.sees_topic(caller, each.topic)]
        return [
            each.model_dump(exclude={"document", "defaults", "convert"})
            for each in sorted(seen, key=lambda each: (each.topic, each.version))
        ]

    async def _delete(self, caller: str, topic: str) -> dict[str, Any]:
        versions = await self._versions(topic)
        owner = versions[max(versions)][0].owner if versions else None
        if caller != owner and not self._rights.rules(caller):
            raise Denied(f"only who registered {topic!r} first, and operators, may delete its schemas", hint="ask them")
        for version in sorted(versions, reverse=True):
            await self._bucket.delete(_key(topic, version))
        return {"deleted": len(versions)}

    async def _versions(self, topic: str) -> dict[int, tuple[SchemaEntry, Entry]]:
        found = await self._bucket.snapshot(f"{topic_tokens(topic)}.*")
        return {entry.version: (entry, each) for each in found.values() if (entry := _read(each)) is not None}


class _Judged(Exception):
    """What the judge said."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said = said


def _key(topic: str, version: int) -> str:
    return f"{topic_tokens(topic)}.{escape(str(version))}"


def _read(entry: Entry) -> SchemaEntry | None:
    """None for what is no entry, or lies under another key than its own: nobody but a control plane writes here, but operators can."""
    try:
        said = read(SchemaEntry, entry.value)
    except MalformedMessage:
        return None
    return said if entry.key == _key(said.topic, said.version) else None


def _same(one: SchemaEntry, other: SchemaEntry) -> bool:
    return same([one.document, one.defaults, one.convert], [other.document, other.defaults, other.convert])


def _check_topic(topic: str) -> None:
    topic_pattern(topic)
    if {"*", ">"} & set(topic.split(".")):
        raise ConfigError(f"a schema is of one topic, not of {topic!r}", hint="write its words, as in build.done")
