"""To read what is another's: the broker lets nobody subscribe where others' names stand, in whatever form a filter is written."""

import asyncio
from collections.abc import Iterable

import pytest

from mesh.subjects import escape
from mesh.topology import HEALTH, REGISTRY, bucket_stream
from mesh.wire.entries import JournalPolicy
from mesh.wire.jsonrpc import dumps
from tests.attacks.world import AGENT, HOST, SUBJECTS, World, drop

EVIL = pytest.mark.parametrize("evil", [AGENT, HOST])
EVERYTHING = (">", "*.>", "mesh.>", "mesh.v1.>", "*.v1.*.*.*.*.*")


async def deaf(world: World, evil: str, filters: Iterable[str], *, queue: str = "", quiet: bool = False) -> None:
    """`evil` hears nothing by any of these while honest people speak, and an unprotected one does by each."""
    policy = JournalPolicy(default="none" if quiet else "full")
    await world.victim(journal=policy)
    mesh = await world.honest()
    attacker, bare = await world.join(evil), {each: await world.unprotected(f"bare{n}") for n, each in enumerate(filters)}
    for each, listener in bare.items():
        await attacker.subscribe(each, queue)
        await listener.subscribe(each, queue)
        await listener.settle()
    assert await attacker.refused(*bare) == list(bare)
    calling = []
    for n in range(20 if queue else 1):
        await mesh.target("victim")
        calling.append(asyncio.create_task(mesh.call("victim", "t", {"n": n})))
        if not queue:
            assert await calling[0] == {"echo": {"n": n}}
    for each, listener in bare.items():
        await listener.signals.until(lambda: listener.heard)  # noqa: B023 - it is waited for here
        assert listener.heard, each
    assert attacker.heard == []
    assert await world.logged(attacker, next(iter(bare)))
    for task in calling:
        await drop(task)


@EVIL
async def test_read_anothers_calls(world: World, evil: str) -> None:
    await deaf(world, evil, [*EVERYTHING, "mesh.v1.call.>", "mesh.v1.call.victim.any.>", "*.*.call.victim.*.*.tools.call.*"])


@EVIL
async def test_read_anothers_replies(world: World, evil: str) -> None:
    await deaf(world, evil, ["mesh.v1.reply.>", "*.v1.reply.>", "mesh.v1.reply.*.*.*.*", "mesh.v1.reply.honest.*.*.*"])


@EVIL
async def test_read_anothers_quiet_calls_and_replies(world: World, evil: str) -> None:
    await deaf(world, evil, ["mesh.v1.quiet.>", "mesh.v1.hush.>", "mesh.v1.hush.honest.*.*.*", "mesh.v1.quiet.victim.any.>"], quiet=True)


@EVIL
async def test_read_anothers_probes(world: World, evil: str) -> None:
    await deaf(world, evil, ["mesh.v1.probe.>", "mesh.v1.probe.*.*.*", "mesh.v1.probe.victim.any.*"])


@EVIL
async def test_join_anothers_queue_group(world: World, evil: str) -> None:
    """Who is in the group gets some of the calls."""
    await deaf(world, evil, [SUBJECTS.calls_to("victim", "any"), "mesh.v1.call.*.any.>"], queue=escape("victim"))


@EVIL
async def test_read_anothers_notices(world: World, evil: str) -> None:
    attacker, bare = await world.join(evil), await world.unprotected()
    filters = ["mesh.v1.note.>", "mesh.v1.note.victim.>", "mesh.v1.note.*.honest.>"]
    for each in filters:
        await attacker.subscribe(each)
        await bare.subscribe(each)
    assert await attacker.refused(*filters) == filters
    await bare.settle()
    note = dumps({"jsonrpc": "2.0", "method": "notifications/x"})
    await (await world.honest()).connection.publish(SUBJECTS.note("victim", "honest", "notifications/x"), note)
    await bare.signals.until(lambda: len(bare.heard) >= len(filters))
    assert attacker.heard == []


@EVIL
async def test_read_anothers_parts(world: World, evil: str) -> None:
    """A body that is too large for one message, as it passes in chunks."""
    attacker, bare = await world.join(evil), await world.unprotected()
    filters = ["mesh.v1.part.>", "mesh.v1.part.victim.>", "mesh.v1.part.honest.>", "mesh.v1.part.*.*.*.*.*.*"]
    for each in filters:
        await attacker.subscribe(each)
        await bare.subscribe(each)
    assert await attacker.refused(*filters) == filters
    await world.victim()
    mesh = await world.honest()
    large = "x" * 1_500_000
    assert await mesh.call("victim", "t", {"n": large}) == {"echo": {"n": large}}
    await bare.signals.until(lambda: bare.heard)
    assert attacker.heard == []


@EVIL
async def test_read_anothers_inbox(world: World, evil: str) -> None:
    attacker, bare = await world.join(evil), await world.unprotected()
    filters = ["_INBOX.>", "_INBOX.*.>", "_INBOX.honest.>", "*.honest.>", "_INBOX.*.*.*"]
    for each in filters:
        await attacker.subscribe(each)
        await bare.subscribe(each)
    assert await attacker.refused(*filters) == filters
    mesh = await world.honest()
    await mesh.connection.flush()
    await bare.signals.until(lambda: len(bare.heard) >= len(filters))
    assert attacker.heard == []


@EVIL
async def test_read_anothers_keys(world: World, evil: str) -> None:
    """An agent sees no other; a host sees all whom it may call, through readers, and not the streams behind them."""
    attacker, bare = await world.join(evil), await world.unprotected()
    filters = ["$KV.>", "$KV.registry.>", "$KV.health.>", "$KV.*.victim.*"]
    copies = ["mesh.v1.registry.*.*", "mesh.v1.health.victim.*", "mesh.v1.registry.>"] if evil == AGENT else []
    for each in (*filters, *copies):
        await attacker.subscribe(each)
        await bare.subscribe(each)
    assert await attacker.refused(*filters, *copies) == [*filters, *copies]
    await world.victim()
    await bare.signals.until(lambda: len(bare.heard) >= len(filters) + len(copies))
    assert [each for each in attacker.heard if "victim" in each.subject] == []


@EVIL
async def test_read_what_streams_hold(world: World, evil: str) -> None:
    """The journal and the buckets, by every way that JetStream has."""
    _, presence = await world.victim()
    key = f"$KV.registry.victim.{presence.entry.instance}"
    attacker, bare = await world.join(evil), await world.unprotected()
    asked = {
        f"$JS.API.DIRECT.GET.{bucket_stream(REGISTRY)}.{key}": b"",
        f"$JS.API.DIRECT.GET.{bucket_stream(REGISTRY)}": dumps({"last_by_subj": key}),
        f"$JS.API.STREAM.MSG.GET.{bucket_stream(REGISTRY)}": dumps({"last_by_subj": key}),
        f"$JS.API.STREAM.MSG.GET.{bucket_stream(HEALTH)}": dumps({"seq": 1}),
        "$JS.API.STREAM.MSG.GET.JOURNAL": dumps({"seq": 1}),
        "$JS.API.STREAM.INFO.JOURNAL": b"",
        "$JS.API.STREAM.NAMES": b"",
        "$JS.API.STREAM.LIST": b"",
        "$JS.API.INFO": b"",
        "$JS.API.STREAM.SNAPSHOT.JOURNAL": dumps({"deliver_subject": f"_INBOX.{evil}.s"}),
    }
    for subject, body in asked.items():
        await attacker.publish(subject, body, f"_INBOX.{evil}.answer")
    assert await attacker.refused(*asked) == list(asked)
    for subject in list(asked)[2:8]:
        assert "error" not in await bare.ask(subject, asked[subject]) or "MSG.GET" in subject
    assert (await bare.client.request(next(iter(asked)), b"", timeout=2)).data.startswith(b'{"agent":"victim"')
