"""Messages: to send in another's name, to read or acknowledge another's, to swallow them, and to write another's dead letters."""

import asyncio
import base64

import pytest

from mesh import Mesh
from mesh.broker import AgentMessage
from mesh.errors import Denied
from mesh.wire.jsonrpc import dumps
from mesh.wire.letter import DEAD_HEADER, DeadLetter
from tests.attacks.world import AGENT, HOST, SUBJECTS, World, stored

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])
LANE = SUBJECTS.message("victim", "honest", "normal")
BODY = dumps({"id": "1", "type": "t", "content": "forged", "sent": "2026-01-31T12:00:00Z"})


async def stopped(world: World, evil: str, *subjects: str, body: bytes = b"{}") -> None:
    """The broker refuses to take each of these from `evil`, and takes them from who is held to nothing."""
    attacker = await world.join(evil)
    for subject in subjects:
        await attacker.publish(subject, body, f"_INBOX.{evil}.x")
    assert await attacker.refused(*subjects) == list(subjects)
    assert await world.logged(attacker, subjects[0])
    bare = await world.unprotected()
    for subject in subjects:
        await bare.publish(subject, body, "_INBOX.unprotected.x")
    assert await bare.refused(*subjects) == []


async def lane_of(world: World, name: str) -> None:
    """A name has its lane."""
    async with Mesh(name=name, broker=world.url) as mesh, mesh.messages.subscribe_to_messages(_nothing):
        pass


async def _nothing(_: AgentMessage) -> None:
    """A handler."""


@EVIL
async def test_send_in_anothers_name(world: World, evil: str) -> None:
    await stopped(world, evil, LANE, SUBJECTS.message("victim", "operator", "critical"), body=BODY)
    bare = await world.unprotected()
    assert (await bare.ask(SUBJECTS.message("somebody", "honest", "normal"), BODY))["stream"] == "MESSAGES_NORMAL"


async def test_an_agent_sends_to_nobody(world: World) -> None:
    await stopped(world, AGENT, SUBJECTS.message("victim", AGENT, "normal"), body=BODY)
    host = await world.join(HOST)
    assert "seq" in await host.ask(SUBJECTS.message("victim", HOST, "normal"), BODY)


@EVIL
async def test_take_anothers_messages(world: World, evil: str) -> None:
    await lane_of(world, "victim")
    api = "$JS.API.CONSUMER"
    await stopped(
        world,
        evil,
        f"{api}.MSG.NEXT.MESSAGES_NORMAL.victim",
        f"{api}.INFO.MESSAGES_NORMAL.victim",
        f"{api}.RESET.MESSAGES_NORMAL.victim",
        f"{api}.CREATE.MESSAGES_NORMAL.{evil}",
        f"{api}.DELETE.MESSAGES_NORMAL.victim",
        f"{api}.PAUSE.MESSAGES_NORMAL.victim",
        "$JS.API.STREAM.MSG.GET.MESSAGES_NORMAL",
        f"$JS.API.DIRECT.GET.MESSAGES_NORMAL.{LANE}",
        "$JS.API.STREAM.PURGE.MESSAGES_NORMAL",
        "$JS.API.STREAM.MSG.DELETE.MESSAGES_NORMAL",
    )


@EVIL
async def test_acknowledge_anothers_message(world: World, evil: str) -> None:
    """Sequences can be guessed, so the consumer's name must be its owner's."""
    await stopped(world, evil, *(f"$JS.ACK.MESSAGES_{lane}.victim.1.1.1.1.0" for lane in ("NORMAL", "CRITICAL")), body=b"+TERM")


@EVIL
async def test_listen_to_anothers_messages(world: World, evil: str) -> None:
    attacker = await world.join(evil)
    filters = ["mesh.v1.msg.victim.*.normal", "mesh.v1.msg.>", "mesh.v1.dead.>", "$JS.EVENT.>"]
    for each in filters:
        await attacker.subscribe(each)
    assert await attacker.refused(*filters) == filters
    bare = await world.unprotected()
    await bare.subscribe(filters[0])
    await bare.settle()
    await (await world.honest()).messages.publish_message("victim", "t", "heard")
    await bare.signals.until(lambda: bare.heard)


@EVIL
async def test_have_lanes_made_for_another(world: World, evil: str) -> None:
    async with Mesh(name=evil, broker=world.url) as mesh:
        with pytest.raises(Denied):
            await mesh.request("mesh", "mesh/lanes", {"target": "victim", "wanted": ["critical"]}, timeout=5)


@EVIL
async def test_write_anothers_dead_letter_or_the_brokers_word(world: World, evil: str) -> None:
    await stopped(
        world,
        evil,
        SUBJECTS.dead("victim", "MESSAGES_NORMAL", "1-1"),
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.MESSAGES_NORMAL.victim",
        "$JS.API.STREAM.MSG.GET.DEAD_LETTERS",
        "$JS.API.CONSUMER.CREATE.DEAD_LETTERS.x",
        "$JS.API.CONSUMER.MSG.NEXT.ADVISORIES.given-up",
    )


async def test_swallow_a_message_by_its_deduplication_id(world: World) -> None:
    """The receiver of a message sees its id, and stores one of its own under the same id before the sender sends to somebody else."""
    evil, operator = await world.join(HOST), await world.unprotected()
    honest = await world.honest()
    await honest.messages.publish_message(HOST, "t", "to the attacker", id="plain")
    asked = dumps({"last_by_subj": SUBJECTS.message(HOST, "honest", "normal")})
    seen = (await operator.ask("$JS.API.STREAM.MSG.GET.MESSAGES_NORMAL", asked))["message"]
    headers = base64.b64decode(seen["hdrs"]).decode()
    known = headers.split("Nats-Msg-Id: ")[1].split("\r\n")[0]
    before = await stored(operator, LANE, "MESSAGES_NORMAL")
    for guess in ("plain", known, f"{LANE} plain"):
        await evil.ask(SUBJECTS.message("victim", HOST, "normal"), BODY, {"Nats-Msg-Id": guess})
    await honest.messages.publish_message("victim", "t", "to the victim", id="plain")
    assert await stored(operator, LANE, "MESSAGES_NORMAL") == before + 1
    # Under a plain id the same would work.
    assert "duplicate" not in await operator.ask(SUBJECTS.message("victim", "honest", "low"), BODY, {"Nats-Msg-Id": "y"})
    assert (await operator.ask(SUBJECTS.message("other", "honest", "low"), BODY, {"Nats-Msg-Id": "y"}))["duplicate"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": LANE},
        {"Nats-Rollup": "all"},
        {"Nats-Rollup": "sub"},
        {"Nats-TTL": "1s"},
        {"Nats-Incr": "1"},
        {"Nats-Batch-Id": "b", "Nats-Batch-Sequence": "1", "Nats-Batch-Commit": "1"},
    ],
    ids=lambda headers: next(iter(headers.items()))[0],
)
async def test_have_the_stream_do_more_than_store(world: World, headers: dict[str, str]) -> None:
    """A schedule's target may be any subject of its stream: with schedules anybody could forge any sender."""
    evil, operator = await world.join(HOST), await world.unprotected()
    before = await stored(operator, LANE, "MESSAGES_NORMAL")
    answer = await evil.ask(SUBJECTS.message("victim", HOST, "normal"), BODY, headers)
    assert "error" in answer
    await evil.settle()
    assert await stored(operator, LANE, "MESSAGES_NORMAL") == before


async def test_have_the_broker_write_a_word_of_its_own(world: World) -> None:
    """A publish into a stream whose reply subject is the advisories': the acknowledgement lies there, and moves nobody's message."""
    evil, operator = await world.join(HOST), await world.unprotected()
    await lane_of(world, "victim")
    honest = await world.honest()
    await honest.messages.publish_message("victim", "t", "kept")
    before = await stored(operator, LANE, "MESSAGES_NORMAL")
    dead = await stored(operator, SUBJECTS.dead_of("victim"), "DEAD_LETTERS")
    advisory = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.MESSAGES_NORMAL.victim"
    seq = (await operator.ask("$JS.API.STREAM.INFO.ADVISORIES"))["state"]["last_seq"]
    await evil.publish(SUBJECTS.message("victim", HOST, "low"), BODY, advisory)
    await evil.settle()
    async with asyncio.timeout(5):
        while True:  # the control plane has looked at it
            info = await operator.ask("$JS.API.CONSUMER.INFO.ADVISORIES.given-up")
            if info["ack_floor"]["stream_seq"] > seq:
                break
            await asyncio.sleep(0.01)
    assert await stored(operator, LANE, "MESSAGES_NORMAL") == before
    assert await stored(operator, SUBJECTS.dead_of("victim"), "DEAD_LETTERS") == dead


async def test_name_anothers_message_in_ones_own_dead_letter(world: World) -> None:
    """Who answers to a name may write its dead letters. What they say was sent must be to that name, or sending it again would forge."""
    evil = await world.join(AGENT)
    forged = DeadLetter(subject=LANE, body=BODY, code="failed", reason="r", deliveries=1, stored_ns=0)
    answer = await evil.ask(SUBJECTS.dead(AGENT, "MESSAGES_NORMAL", "1-1"), BODY, {DEAD_HEADER: forged.header()})
    assert answer["stream"] == "DEAD_LETTERS"
    async with Mesh(name="operator", broker=world.url) as operator:
        assert await operator.messages.dead_letters.find() == []


@EVIL
async def test_answer_a_message_in_anothers_place(world: World, evil: str) -> None:
    await stopped(world, evil, "mesh.v1.hush.honest.victim.0123456789.1", body=b'{"id":"1","result":"forged"}')
