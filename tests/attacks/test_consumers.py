"""JetStream, micro discovery and the system account: what is created, read or changed there is the control plane's and the operator's."""

from collections.abc import Iterable

import pytest
from nats.aio.msg import Msg

from mesh.wire.jsonrpc import dumps
from tests.attacks.broker_writes import reader_of
from tests.attacks.world import ACCOMPLICE, AGENT, HOST, Attacker, World, stored

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])
VICTIMS_CALLS = "mesh.v1.call.victim.any.honest.tools.call.t"


async def stopped(world: World, evil: str, asked: Iterable[tuple[str, bytes]]) -> None:
    """The broker refuses each of these to `evil`."""
    attacker, asked = await world.join(evil), list(asked)
    for subject, body in asked:
        await attacker.publish(subject, body, f"_INBOX.{evil}.x")
    subjects = [subject for subject, _ in asked]
    assert await attacker.refused(*subjects) == subjects
    assert await world.logged(attacker, subjects[0])


async def pull(by: Attacker, subject: str) -> Msg:
    inbox = f"_INBOX.{by.name}.{len(by.heard)}"
    await by.subscribe(inbox)
    await by.publish(subject, b'{"batch":1,"no_wait":true}', inbox)
    await by.signals.until(lambda: by.heard)
    return by.heard[-1]


@EVIL
async def test_find_out_anothers_reader(world: World, evil: str) -> None:
    """Its name is its secret: 128 bits that nobody lists."""
    owner = await world.join(ACCOMPLICE)
    reader = await reader_of(owner)
    asked = [(f"$JS.API.CONSUMER.{verb}.{stream}", b"") for verb in ("NAMES", "LIST") for stream in ("KV_registry", "KV_health", "JOURNAL")]
    await stopped(world, evil, asked)
    found = (await (await world.unprotected()).ask(asked[0][0]))["consumers"]
    assert reader in found
    assert len({each for each in found if each.startswith("reader-")}) > 1
    assert all(len(each) == len("reader-") + 32 for each in found if each.startswith("reader-"))


@EVIL
async def test_pull_from_a_reader_by_a_guessed_name(world: World, evil: str) -> None:
    """An agent may not pull at all. A host may, and for a name that is wrong it gets nothing."""
    attacker = await world.join(evil)
    pulls = [f"$JS.API.CONSUMER.MSG.NEXT.KV_registry.{name}" for name in ("reader", "reader-" + "0" * 32, "*", ">")]
    for subject in (*pulls, "$JS.API.CONSUMER.MSG.NEXT.JOURNAL.reader"):
        await attacker.publish(subject, b'{"batch":10,"no_wait":true}', f"_INBOX.{evil}.x")
    await attacker.subscribe(f"_INBOX.{evil}.x")
    assert await attacker.refused(*pulls) == (pulls if evil == AGENT else [])
    assert await attacker.refused("$JS.API.CONSUMER.MSG.NEXT.JOURNAL.reader")
    assert [each for each in attacker.heard if each.data] == []
    known = f"$JS.API.CONSUMER.MSG.NEXT.KV_registry.{await reader_of(await world.join(ACCOMPLICE))}"
    assert (await pull(await world.unprotected(), known)).data.startswith(b'{"agent"')


@EVIL
async def test_remove_reset_or_pause_anothers_reader(world: World, evil: str) -> None:
    reader = await reader_of(await world.join(ACCOMPLICE))
    asked = [(f"$JS.API.CONSUMER.{verb}.KV_registry.{reader}", b"{}") for verb in ("DELETE", "PAUSE", "UNPIN", "LEADER.STEPDOWN")]
    asked += [(f"$JS.API.CONSUMER.RESET.JOURNAL.{reader}", b'{"seq":1}'), ("$JS.API.CONSUMER.DELETE.JOURNAL.any", b"")]
    await stopped(world, evil, asked)
    bare = await world.unprotected()
    assert "error" not in await bare.ask(f"$JS.API.CONSUMER.INFO.KV_registry.{reader}")
    assert (await bare.ask(asked[0][0]))["success"]


@EVIL
@pytest.mark.parametrize("verb", ["CREATE.KV_registry", "CREATE.KV_registry.x", "DURABLE.CREATE.KV_registry.x", "CREATE.JOURNAL.x.mesh.>"])
async def test_have_the_broker_deliver_where_one_may_not_publish(world: World, evil: str, verb: str) -> None:
    """A push consumer: the broker publishes whatever the stream holds on the subject that its maker chose."""
    recorder, _ = await world.victim()
    config = {"name": "x", "deliver_subject": VICTIMS_CALLS, "deliver_policy": "all", "ack_policy": "none"}
    subject = f"$JS.API.CONSUMER.{verb}"
    await stopped(world, evil, [(subject, dumps({"stream_name": "KV_registry", "config": config}))])
    if verb != "CREATE.KV_registry.x":
        return
    bare = await world.unprotected()
    await bare.subscribe(VICTIMS_CALLS)
    answer = await bare.ask(subject, dumps({"stream_name": "KV_registry", "config": config}))
    assert "error" not in answer
    await bare.signals.until(lambda: bare.heard)
    await bare.ask("$JS.API.CONSUMER.DELETE.KV_registry.x")
    assert recorder.calls == []


@EVIL
async def test_read_directly_to_where_one_may_not_publish(world: World, evil: str) -> None:
    """A direct get answers to any subject with what the attacker itself has stored."""
    agent = await world.join(AGENT)
    assert "error" not in await agent.ask(f"$KV.registry.{AGENT}.x", b'{"stored":1}')
    get = f"$JS.API.DIRECT.GET.KV_registry.$KV.registry.{AGENT}.x"
    attacker = await world.join(evil)
    await attacker.publish(get, b"", VICTIMS_CALLS)
    assert await attacker.refused(get) == [get]
    bare = await world.unprotected()
    await bare.subscribe(VICTIMS_CALLS)
    await bare.settle()
    await bare.publish(get, b"", VICTIMS_CALLS)
    await bare.signals.until(lambda: bare.heard)
    assert bare.heard[0].data == b'{"stored":1}'


@EVIL
async def test_change_a_stream(world: World, evil: str) -> None:
    """Its settings, what it holds, a copy of everything elsewhere (republish, mirror, source), or that there is one."""
    spy = {"name": "SPY", "subjects": ["mesh.v1.quiet.>"]}
    copies = {"name": "JOURNAL", "subjects": ["mesh.v1.call.>"], "republish": {"src": ">", "dest": f"_INBOX.{evil}.>"}}
    asked = [
        ("$JS.API.STREAM.CREATE.SPY", dumps(spy)),
        ("$JS.API.STREAM.CREATE.MIRROR", dumps({"name": "MIRROR", "mirror": {"name": "JOURNAL"}})),
        ("$JS.API.STREAM.UPDATE.JOURNAL", dumps(copies)),
        ("$JS.API.STREAM.PURGE.JOURNAL", b""),
        ("$JS.API.STREAM.PURGE.KV_registry", b""),
        ("$JS.API.STREAM.DELETE.JOURNAL", b""),
        ("$JS.API.STREAM.DELETE.KV_health", b""),
        ("$JS.API.STREAM.MSG.DELETE.JOURNAL", dumps({"seq": 1})),
        ("$JS.API.STREAM.RESTORE.JOURNAL", b"{}"),
        ("$JS.API.STREAM.LEADER.STEPDOWN.JOURNAL", b""),
    ]
    await stopped(world, evil, asked)
    bare = await world.unprotected()
    assert "error" not in await bare.ask(*asked[0])
    await bare.ask("$JS.API.STREAM.DELETE.SPY")


@EVIL
async def test_name_an_object_as_anothers(world: World, evil: str) -> None:
    """The Object Store: its names have no owner, so there is none."""
    asked = [
        ("$JS.API.STREAM.CREATE.OBJ_files", dumps({"name": "OBJ_files", "subjects": ["$O.files.C.>", "$O.files.M.>"]})),
        ("$O.files.M.aGFuaw==", b"{}"),
        ("$O.files.C.x", b"chunk"),
        ("$JS.API.STREAM.CREATE.KV_mine", dumps({"name": "KV_mine", "subjects": ["$KV.mine.>"]})),
        ("$KV.mine.x", b"{}"),
    ]
    await stopped(world, evil, asked)
    bare = await world.unprotected()
    assert "error" not in await bare.ask(*asked[0])
    assert "error" not in await bare.ask(*asked[1])
    await bare.ask("$JS.API.STREAM.DELETE.OBJ_files")


@EVIL
async def test_pose_as_a_service(world: World, evil: str) -> None:
    """Micro discovery: who may listen there can be any service, and who may ask there has others write to any subject."""
    attacker, bare = await world.join(evil), await world.unprotected()
    filters = ["$SRV.>", "$SRV.PING", "$SRV.INFO.victim", "$SRV.*.*.*"]
    for each in filters:
        await attacker.subscribe(each)
    assert await attacker.refused(*filters) == filters
    await attacker.publish("$SRV.PING", b"", VICTIMS_CALLS)
    assert await attacker.refused("$SRV.PING") == ["$SRV.PING"]
    answer = await bare.client.request("$SRV.PING", b"", timeout=3)
    assert b"ping_response" in answer.data
    await bare.subscribe(VICTIMS_CALLS)
    await bare.publish("$SRV.PING", b"", VICTIMS_CALLS)  # and the control plane answers to inboxes only
    await bare.client.request("$SRV.PING", b"", timeout=3)
    assert bare.heard == []


@EVIL
async def test_reach_the_system_account(world: World, evil: str) -> None:
    verbs = ("SERVER.PING", "CLAIMS.UPDATE", "CLAIMS.DELETE", "ACCOUNT.PING.CONNZ", "SERVER.x.RELOAD")
    asked = [(f"$SYS.REQ.{each}", b"{}") for each in verbs]
    attacker = await world.join(evil)
    filters = ["$SYS.>", "$SYS.ACCOUNT.*.DISCONNECT", "mesh.v1.broker.disconnect", "$JS.EVENT.>"]
    for each in filters:
        await attacker.subscribe(each)
    assert await attacker.refused(*filters) == filters
    await stopped(world, evil, asked)
    bare = await world.unprotected()
    await bare.subscribe("mesh.v1.broker.disconnect")
    await bare.settle()
    await attacker.client.close()
    await bare.signals.until(lambda: bare.heard)


@EVIL
async def test_acknowledge_anothers_delivery(world: World, evil: str) -> None:
    """By guessed sequences: `+TERM` would have it never delivered again."""
    bare = await world.unprotected()
    await bare.ask("$JS.API.STREAM.CREATE.WORK", dumps({"name": "WORK", "subjects": ["work.>"], "retention": "workqueue"}))
    await bare.ask(
        "$JS.API.CONSUMER.CREATE.WORK.w", dumps({"stream_name": "WORK", "config": {"durable_name": "w", "ack_policy": "explicit"}})
    )
    await bare.ask("work.job", b"job")
    delivered = await pull(bare, "$JS.API.CONSUMER.MSG.NEXT.WORK.w")
    assert delivered.reply.startswith("$JS.ACK.WORK.w.1.1.1.")
    attacker = await world.join(evil)
    guesses = [delivered.reply, "$JS.ACK.WORK.w.1.1.1.1.0", "$JS.ACK.JOURNAL.w.1.1.1.1.0"]
    for each in guesses:
        await attacker.publish(each, b"+TERM")
    assert await attacker.refused(*guesses) == guesses
    assert await stored(bare, "work.job", "WORK") == 1
    await bare.publish(delivered.reply, b"+TERM")
    while await stored(bare, "work.job", "WORK"):
        pass
    await bare.ask("$JS.API.STREAM.DELETE.WORK")
