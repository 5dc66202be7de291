"""Schemas and expressions: to change another's, to write the bucket, to reach out, and to keep the control plane busy."""

import asyncio
from typing import Any

import pytest

from mesh import Mesh
from mesh.errors import BadExpression, Denied, IncompatibleSchema, MeshError, NoSuchAgent, RemoteError
from mesh.events.schemas import Schemas
from mesh.topology import SCHEMAS, bucket_stream, bucket_subject
from mesh.wire.schema import SchemaEntry
from tests.attacks.test_messages import stopped
from tests.attacks.world import AGENT, HOST, SUBJECTS, World

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])
ONE: dict[str, Any] = {"type": "object", "properties": {"pr": {"type": "integer"}}, "required": ["pr"]}


def schemas(mesh: Mesh) -> Schemas:
    return mesh.events.schemas


@EVIL
async def test_write_the_bucket(world: World, evil: str) -> None:
    """A version that a control plane did not judge, a marker in the place of one, and what the broker tells of them."""
    entry = SchemaEntry(topic="build.done", version=1, document={}, owner=evil).encode()
    key = bucket_subject(SCHEMAS, "build.done.1")
    copy = SUBJECTS.schemas_of("build.done")[:-1] + "1"
    await stopped(
        world,
        evil,
        key,
        copy,
        f"$JS.API.STREAM.PURGE.{bucket_stream(SCHEMAS)}",
        f"$JS.API.STREAM.MSG.DELETE.{bucket_stream(SCHEMAS)}",
        body=entry,
    )


async def test_register_for_a_topic_that_one_may_not_publish_on(world: World) -> None:
    """An agent that publishes nothing registers nothing, changes nothing, deletes nothing, and sees nothing."""
    async with Mesh(name="honest", broker=world.url) as owner, Mesh(name=AGENT, broker=world.url) as evil:
        await schemas(owner).register("theirs.a", ONE)
        for what in (
            schemas(evil).register("theirs.a", {}, compatibility="none"),
            schemas(evil).check_schema("theirs.a", {}),
            schemas(evil).delete("theirs.a"),
            schemas(evil).get("theirs.a"),
        ):
            with pytest.raises(Denied):
                await what
        assert await schemas(evil).list() == []
        await schemas(owner).delete("theirs.a")


async def test_loosen_or_delete_what_another_registered(world: World) -> None:
    """A host may publish there too. It may add what the rule allows, and no more."""
    async with Mesh(name="honest", broker=world.url) as owner, Mesh(name=HOST, broker=world.url) as evil:
        await schemas(owner).register("ours.a", ONE, compatibility="full_transitive")
        for rule in ("none", "backward", "full", "forward_transitive"):
            with pytest.raises(Denied):
                await schemas(evil).register("ours.a", {}, compatibility=rule)
        with pytest.raises(IncompatibleSchema):
            await schemas(evil).register("ours.a", {})
        with pytest.raises(Denied):
            await schemas(evil).delete("ours.a")
        assert len(await schemas(owner).list("ours.a")) == 1
        await schemas(owner).delete("ours.a")


def doubling(steps: int) -> dict[str, Any]:
    found = {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}, {"$ref": f"#/$defs/d{n + 1}"}]} for n in range(steps)}
    return {"$ref": "#/$defs/d0", "$defs": {**found, f"d{steps}": {"type": "string"}}}


def nested(levels: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(levels):
        found = {"items": found}
    return found


def choices(many: int) -> dict[str, Any]:
    """What grows when it is compared: many ways to be an object."""
    return {"allOf": [{"anyOf": [{"required": [f"a{m}{n}"], "maxProperties": n + m} for n in range(12)]} for m in range(many)]}


POISON: list[dict[str, Any]] = [
    {"$ref": "http://127.0.0.1:9/schema"},
    {"$ref": "file:///etc/passwd"},
    {"$id": "http://127.0.0.1:9/", "$ref": "schema"},
    {"$schema": "http://127.0.0.1:9/meta"},
    {"properties": {"a": {"$dynamicRef": "http://127.0.0.1:9/"}}},
    {"pattern": "(a+)+$" * 200},
    {"pattern": "((a{99}){99}){99}"},
    {"pattern": r"(?=a)(\w+)\1"},
    {"$ref": "#"},
    {"allOf": [{"$ref": "#"}]},
    {"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"properties": {"a": {"$ref": "#"}}}]},
    doubling(40),
    nested(500),
    {"description": "x" * 100_000},
    {"enum": ["x" * 1000 + str(n) for n in range(200)]},
    {"properties": {f"p{n}": {} for n in range(3_000)}},
]


async def test_schemas_that_reach_out_blow_up_or_never_end(world: World) -> None:
    """Each is refused, and the control plane goes on (the bystander is asked all the while)."""
    async with Mesh(name=HOST, broker=world.url) as evil, asyncio.timeout(60):
        for document in POISON:
            with pytest.raises((IncompatibleSchema, RemoteError)):
                await schemas(evil).register("poison.a", document)
        assert await schemas(evil).list("poison.a") == []


async def test_schemas_that_are_hard_to_compare(world: World) -> None:
    """Judged or refused, but in seconds, and in a process of its own."""
    async with Mesh(name=HOST, broker=world.url) as evil, asyncio.timeout(60):
        await schemas(evil).register("hard.a", choices(6))
        with pytest.raises(IncompatibleSchema):
            await schemas(evil).register("hard.a", {**choices(7), "maxProperties": 3})
        await schemas(evil).delete("hard.a")


@pytest.mark.parametrize(
    "text",
    [
        "data.l.map(a, data.l.map(b, data.l.map(c, data)))",
        "{'a': data.s.matches(data.p)}",
        "{'a': '" + "x" * 5_000 + "'}",
        "[" * 100 + "]" * 100,
        "{'a': __import__('os')}",
    ],
)
async def test_conversions_that_blow_up(world: World, text: str) -> None:
    async with Mesh(name=HOST, broker=world.url) as evil:
        with pytest.raises((BadExpression, IncompatibleSchema)):
            await schemas(evil).register("convert.a", ONE, compatibility="none", convert=text)
        assert await schemas(evil).list("convert.a") == []


async def test_what_is_asked_of_the_control_plane_is_read_strictly(world: World) -> None:
    questions: list[dict[str, Any]] = [
        {},
        {"do": "drop"},
        {"do": "register", "topic": "a.*", "document": {}},
        {"do": "register", "topic": ">", "document": {}},
        {"do": "register", "topic": "", "document": {}},
        {"do": "register", "topic": "a..b", "document": {}},
        {"do": "register", "topic": "a." * 400 + "b", "document": {}},
        {"do": "register", "topic": "a.b", "document": []},
        {"do": "register", "topic": "a.b"},
        {"do": "register", "topic": "a.b", "document": {}, "rule": "any"},
        {"do": "get", "topic": "a.b", "version": -1},
        {"do": "list", "topic": "a.>.b"},
    ]
    async with Mesh(name=HOST, broker=world.url) as evil:
        for question in questions:
            with pytest.raises(MeshError) as caught:
                await evil.request("mesh", "mesh/schema", question)
            assert not isinstance(caught.value, NoSuchAgent)
        assert await schemas(evil).list("a.>") == []


async def test_a_schema_under_anothers_key_counts_for_nobody(world: World) -> None:
    """Nobody but the control plane writes there. Still, whoever could would not make one topic's schema out of another's entry."""
    async with Mesh(name="operator", broker=world.url) as operator, Mesh(name="honest", broker=world.url) as honest:
        await schemas(honest).prepare("moved.b")
        bare = await world.unprotected()
        entry = SchemaEntry(topic="moved.a", version=1, document={"type": "null"}, owner="operator").encode()
        for key, body in (("moved.b.1", entry), ("moved.c.1", b"no JSON")):
            assert "seq" in await bare.ask(bucket_subject(SCHEMAS, key), body)
        for topic in ("moved.a", "moved.b", "moved.c"):
            await honest.events.publish(topic, {"x": 1})
        assert await schemas(operator).list("moved.*") == []
