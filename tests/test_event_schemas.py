"""Schemas over a real broker: registered through the control plane, held against what is published and what is received, lifted, renewed
without a restart."""

import asyncio
from typing import Any

import pytest

from mesh import Mesh
from mesh.errors import BadExpression, ConfigError, Denied, IncompatibleSchema, InvalidEvent
from mesh.identity.push import push
from mesh.link.jetstream import JetStream
from mesh.policy.rights import Policy, Role
from mesh.wire.event import encode, new_event
from tests.conftest import Broker
from tests.event_world import Heard, hearing, joined, state
from tests.message_world import letters

PR, BY = {"type": "integer"}, {"type": "string"}
ONE: dict[str, Any] = {"type": "object", "properties": {"pr": PR}, "required": ["pr"], "additionalProperties": False}
TWO: dict[str, Any] = {"type": "object", "properties": {"pr": PR, "by": BY}, "required": ["pr", "by"], "additionalProperties": False}
"""Closed: an open one allows `by` to be anything, so that no later version could say what it is."""


async def around(mesh: Mesh, topic: str, data: Any, *, says: str | None = None) -> None:
    """Publish as somebody does who knows nothing of schemas."""
    event = new_event(mesh.name, topic, data, id="around", type=topic)
    if says is not None:
        event.attributes["dataschema"] = says
    encoded = encode(event)
    await JetStream(mesh.connection).publish(mesh.subjects.event(mesh.name, "normal", topic), encoded.body, headers=dict(encoded.headers))


async def test_an_event_that_does_not_fit_is_refused_with_the_path_and_never_stored(plane: str) -> None:
    async with joined(plane) as mesh:
        await mesh.events.publish("fit.a", "before there was a schema, anything")
        assert await mesh.events.schemas.register("fit.a", ONE) == 1
        await _known(mesh, "fit.a", 1)
        before = await state(plane)
        with pytest.raises(InvalidEvent, match="at /pr") as caught:
            await mesh.events.publish("fit.a", {"pr": "seven"})
        assert caught.value.details == {"topic": "fit.a", "version": 1, "path": "/pr", "rule": "/properties/pr/type"}
        wrong: list[Any] = [{}, None, [], b"\x00", {"pr": 1.5}, {"pr": "\ud800"}, _deep(70)]
        for data in wrong:
            with pytest.raises(InvalidEvent):
                await mesh.events.publish("fit.a", data)
        assert (await state(plane))["last_seq"] == before["last_seq"]
        await mesh.events.publish("fit.a", {"pr": 7})
        await mesh.events.publish("fit.b", {"pr": "seven"})
        assert (await state(plane))["last_seq"] == before["last_seq"] + 2


async def test_an_event_says_its_schema_and_who_went_around_us_makes_a_dead_letter_or_is_passed_over(plane: str) -> None:
    durable, now = Heard(), Heard()
    async with joined(plane) as mesh, joined(plane, "reader-s") as reader:
        await mesh.events.schemas.register("around.a", ONE)
        async with hearing(reader, "around.*", durable, "kept"), hearing(reader, "around.*", now) as passing:
            await around(mesh, "around.a", {"pr": "seven"})
            await around(mesh, "around.a", {"pr": "eight"}, says="mesh://schemas/around.a/1")
            await around(mesh, "around.a", {"pr": "nine"}, says="mesh://schemas/around.a/99")
            await _publish_when_known(mesh, "around.a", {"pr": 7})
            await durable.holds(1)
            await now.holds(1)
            assert passing.broken == 3
        found = [each for each in await letters(plane, "reader-s") if each.letter.code == "invalid"]
    assert durable.data == now.data == [{"pr": 7}]
    assert durable.events[0].attributes["dataschema"] == "mesh://schemas/around.a/1"
    assert len(found) == 3
    assert "at /pr" in found[0].letter.reason


async def test_old_events_are_lifted_to_the_newest_version(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, joined(plane, "reader-l") as reader:
        schemas = mesh.events.schemas
        await around(mesh, "lift.a", {"pr": 0})
        await schemas.register("lift.a", ONE)
        await _publish_when_known(mesh, "lift.a", {"pr": 1})
        assert await schemas.register("lift.a", TWO, defaults={"by": "nobody"}) == 2
        await _known(mesh, "lift.a", 2)
        await mesh.events.publish("lift.a", {"pr": 2, "by": "ann"})
        third = {"type": "object", "properties": {"pull": {"type": "string"}, "by": {"type": "string"}}, "required": ["pull", "by"]}
        await schemas.register("lift.a", third, compatibility="none", convert="{'pull': '#' + string(data.pr), 'by': data.by}")
        await _known(mesh, "lift.a", 3)
        await mesh.events.publish("lift.a", {"pull": "#3", "by": "bob"})
        wanted = [
            {"pull": "#0", "by": "nobody"},
            {"pull": "#1", "by": "nobody"},
            {"pull": "#2", "by": "ann"},
            {"pull": "#3", "by": "bob"},
        ]
        assert [event.data async for event in reader.events.replay_events("lift.a", 0)] == wanted
        replay = reader.events.replay_events("lift.a", 0, filter="event.data.by == 'nobody'")
        assert [event.data async for event in replay] == wanted[:2]
        async with hearing(reader, "lift.a", heard, "later"):
            await mesh.events.publish("lift.a", {"pull": "#4", "by": "eve"})
            await heard.holds(1)
    assert heard.data == [{"pull": "#4", "by": "eve"}]


async def test_the_rule_holds_and_only_the_owner_loosens_it(plane: str) -> None:
    async with joined(plane, "owner") as owner, joined(plane, "other") as other, Mesh(name="operator", broker=plane) as operator:
        schemas = owner.events.schemas
        await schemas.register("rule.a", ONE, compatibility="backward")
        with pytest.raises(IncompatibleSchema, match="required") as caught:
            await other.events.schemas.register("rule.a", TWO)
        assert caught.value.details["version"] == 1
        with pytest.raises(Denied, match="only 'owner'"):
            await other.events.schemas.register("rule.a", TWO, compatibility="none")
        with pytest.raises(Denied):
            await other.events.schemas.delete("rule.a")
        assert await other.events.schemas.check_schema("rule.a", TWO, defaults={"by": "x"}) == 2
        assert await other.events.schemas.register("rule.a", {**ONE, "title": "the same"}, compatibility="full") == 2
        assert await schemas.register("rule.a", TWO, compatibility="none") == 3
        assert await schemas.register("rule.a", TWO) == 3
        with pytest.raises(BadExpression, match="undeclared"):
            await schemas.register("rule.a", ONE, convert="dta")
        with pytest.raises(IncompatibleSchema, match="cannot be judged"):
            await schemas.register("rule.a", ONE, compatibility="full", convert="data")
        found = await schemas.list("rule.*")
        assert [(each["version"], each["rule"], each["by"]) for each in found] == [
            (1, "backward", "owner"),
            (2, "full", "other"),
            (3, "none", "owner"),
        ]
        assert (await other.events.schemas.get("rule.a"))["document"] == TWO
        assert (await other.events.schemas.get("rule.a", 1))["document"] == ONE
        with pytest.raises(ConfigError, match="no version 9"):
            await schemas.get("rule.a", 9)
        assert await operator.events.schemas.delete("rule.a") == 3
        await _known(owner, "rule.a", None)
        await owner.events.publish("rule.a", "anything again")


async def test_who_registers_at_the_same_time_gets_different_versions_or_is_told(plane: str) -> None:
    async with joined(plane, "racer-a") as one, joined(plane, "racer-b") as two:
        said = await asyncio.gather(
            *(
                mesh.events.schemas.register("race.a", {**ONE, "title": f"{mesh.name} {number}"})
                for mesh in (one, two)
                for number in range(3)
            ),
            return_exceptions=True,
        )
        stored = [each["version"] for each in await one.events.schemas.list("race.a")]
    numbers = [each for each in said if isinstance(each, int)]
    assert len(numbers) == len(set(numbers))
    assert sorted(numbers) == stored
    assert all(getattr(each, "code", "busy") == "busy" for each in said if not isinstance(each, int))


async def test_a_participant_learns_of_a_new_version_while_it_runs(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, joined(plane, "late") as late, hearing(late, "renew.a", heard, "r"):
        await mesh.events.publish("renew.a", {"x": 1})
        await mesh.events.schemas.register("renew.a", ONE)
        assert mesh.events.schemas.version("renew.a") == 1
        await _known(late, "renew.a", 1)
        with pytest.raises(InvalidEvent):
            await mesh.events.publish("renew.a", {"x": 1})
        await mesh.events.publish("renew.a", {"pr": 1})
        await heard.holds(2)
    assert heard.data == [{"x": 1}, {"pr": 1}]


async def test_filters_and_transformations_as_text_over_the_broker(plane: str) -> None:
    heard = Heard()
    async with joined(plane) as mesh, joined(plane, "chooser") as chooser:
        with pytest.raises(BadExpression):
            mesh.events.subscribe("cel.a", heard, filter="event.dta == 1")
        async with hearing(chooser, "cel.a", heard, "odd", filter="event.data.n % 2 == 1", transform="{'half': event.data.n / 2}"):
            for number in (1, 2, 3, "x", 5):
                await mesh.events.publish("cel.a", {"n": number})
            await heard.holds(3)
    assert heard.data == [{"half": 0}, {"half": 1}, {"half": 2}]


async def _known(mesh: Mesh, topic: str, version: int | None) -> None:
    """Until this participant's copy has the version."""
    schemas = mesh.events.schemas
    await schemas.prepare(topic)
    async with asyncio.timeout(10):
        while schemas.version(topic) != version:  # noqa: ASYNC110 - a copy tells nobody
            await asyncio.sleep(0.01)


async def _publish_when_known(mesh: Mesh, topic: str, data: Any) -> None:
    await _known(mesh, topic, 1)
    await mesh.events.publish(topic, data)


def _deep(levels: int) -> Any:
    data: Any = {"pr": 1}
    for _ in range(levels):
        data = {"pr": 1, "x": data}
    return data


async def test_rights_that_overlap_see_their_topics_and_no_others(broker: Broker, plane: str) -> None:
    """A filter of `*.done` and one of `build.>` cannot be of one reader."""

    async def may(*topics: str) -> None:
        broker.authority.apply_policy(Policy.of([Role("builder", publish=topics)]))
        await push(broker.authority, plane)

    async with joined(plane) as owner:
        for topic in ("build.done", "test.done", "build.x.y", "other.a"):
            await owner.events.schemas.register(topic, ONE)
        await may("*.done", "build.>")
        broker.authority.issue("bob", ("agent", "builder"))
        await push(broker.authority, plane)
        async with Mesh(name="bob", broker=plane) as bob:
            for topic in ("build.done", "test.done", "build.x.y"):
                with pytest.raises(InvalidEvent):
                    await bob.events.publish(topic, {})
                await bob.events.publish(topic, {"pr": 1})
            assert bob.events.schemas.version("other.a") is None
            assert [each["topic"] for each in await bob.events.schemas.list()] == ["build.done", "build.x.y", "test.done"]
            with pytest.raises(Denied):
                await bob.events.schemas.get("other.a")
            await may("*.done", "build.>", "other.a")
            async with asyncio.timeout(20):
                while bob.connection.rights is None or not bob.connection.rights.may_hear_all(bob.subjects.schemas_of("other.a")):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            with pytest.raises(InvalidEvent):
                await bob.events.publish("other.a", {})
