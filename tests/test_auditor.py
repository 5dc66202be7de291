"""The journal for auditors: they read all of it, through readers that the control plane makes, and can do nothing else."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mesh import Mesh
from mesh.audit.calls import JournalCall
from mesh.audit.journal import Journal
from mesh.errors import CallError, Denied, RemoteError
from mesh.identity.push import push
from mesh.link.jetstream import JetStream
from mesh.link.reader import INACTIVE, read_stream
from mesh.settings import make_settings
from mesh.topology import JOURNAL, ConsumerSpec
from tests.cli_helpers import mesh as command
from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Background, Recorder, serving, settled


@asynccontextmanager
async def calls_made(url: str) -> AsyncIterator[None]:
    """Five calls of a calculator, and who made them: `local` three, `bob` two."""
    async with serving(url, "calc", Recorder()):
        for name, count in (("local", 3), ("bob", 2)):
            async with Mesh(name=name, broker=url) as mesh:
                for n in range(count):
                    await mesh.call("calc", "add", {"n": n})
        yield


@pytest.fixture(scope="module")
def world(broker: Broker, plane: str) -> Iterator[str]:
    broker.authority.issue("ann", ("auditor",))
    broker.authority.issue("bob", ("agent", "host"))
    asyncio.run(push(broker.authority, plane))
    with Background(lambda: calls_made(plane)):
        yield plane


def journal(mesh: Mesh) -> Journal:
    return Journal(mesh.connection, mesh.subjects, mesh.readers.of_stream)


async def read(name: str, url: str, **wanted: Any) -> list[JournalCall]:
    async with Mesh(name=name, broker=url) as mesh, aclosing(journal(mesh).calls(**wanted)) as found:
        return [call async for call in found]


async def test_an_auditor_reads_what_an_operator_reads(world: str) -> None:
    every = await read("operator", world, target="calc")
    assert [call.caller for call in every] == ["local"] * 3 + ["bob"] * 2
    for wanted in ({}, {"caller": "bob"}, {"target": "calc", "last": 2}, {"since_ns": every[2].time_ns}, {"outcome": "ok", "limit": 3}):
        assert await read("ann", world, **wanted) == await read("operator", world, **wanted) != []
    async with Mesh(name="ann", broker=world) as mesh:
        exchange = await journal(mesh).show(every[0].correlation_id)
        assert exchange is not None
        assert [message.what for message in exchange.messages] == ["call", "final"]
        assert (await journal(mesh).check()).complete


async def test_what_an_auditor_may_not(world: str) -> None:
    async with Mesh(name="ann", broker=world) as mesh:
        assert mesh.connection.rights is not None
        assert {each for each in mesh.connection.rights.publish if JOURNAL in each} == {
            *(f"$JS.API.CONSUMER.{verb}.JOURNAL.*" for verb in ("MSG.NEXT", "INFO", "RESET")),
            "$JS.API.STREAM.INFO.JOURNAL",
        }
        js = JetStream(mesh.connection)
        spec = ConsumerSpec(stream=JOURNAL, name="mine", durable=False, ack="none")
        for verb, body in (
            (f"CONSUMER.CREATE.{JOURNAL}.mine", {"stream_name": JOURNAL, "config": spec.config()}),
            (f"STREAM.PURGE.{JOURNAL}", {}),
        ):
            with pytest.raises(Denied):
                await js.api(verb, body)
        with pytest.raises(Denied):
            async for _ in read_stream(mesh.connection, JOURNAL):
                pass
        with pytest.raises(Denied, match="'ann' may not call calc"):
            await mesh.call("calc", "add")


async def test_readers_are_for_auditors_alone(world: str) -> None:
    async with Mesh(name="bob", broker=world) as mesh:
        with pytest.raises(Denied, match="'bob' may not read journal") as refused:
            await mesh.request("mesh", "mesh/reader", {"stream": JOURNAL})
        assert "mesh auth explain bob 'read journal'" in refused.value.hint
        with pytest.raises(Denied, match="'bob' may not read journal") as refused:
            await journal(mesh).check()
        assert "mesh auth explain bob 'read journal'" in refused.value.hint


@pytest.mark.parametrize(
    "params",
    [
        {"stream": "KV_registry"},
        {"stream": "journal"},
        {},
        {"stream": JOURNAL, "filters": ["mesh.v1.call.>"] * 17},
        {"stream": JOURNAL, "filters": "mesh.v1.call.>"},
        {"stream": JOURNAL, "start_seq": 0},
        {"stream": JOURNAL, "start_time_ns": 2**63},
        {"stream": JOURNAL, "filters": ["mesh.v1.call.>", "mesh.v1.call.a.>"]},
        {"stream": JOURNAL, "filters": ["other.>"], "start_seq": -1},
        {"bucket": ["registry"]},
    ],
)
async def test_what_is_no_reader_is_refused(world: str, params: dict[str, Any]) -> None:
    async with Mesh(name="ann", broker=world) as mesh, asyncio.timeout(5):
        with pytest.raises(CallError) as refused:
            await mesh.request("mesh", "mesh/reader", params)
        assert isinstance(refused.value, RemoteError)


async def test_a_reader_cannot_be_guessed_or_turned_elsewhere(world: str) -> None:
    async with Mesh(name="ann", broker=world) as mesh, Mesh(name="operator", broker=world) as operator:
        asked = {
            "stream": JOURNAL,
            "start_seq": 2,
            "filters": ["mesh.v1.call.>"],
            "deliver_subject": "mesh.v1.reply.bob.calc.x.1",
            "name": "mine",
        }
        names = [(await mesh.request("mesh", "mesh/reader", asked))["consumer"] for _ in range(2)]
        assert len(set(names)) == 2
        for name in names:
            assert re.fullmatch("reader-[0-9a-f]{32}", name)
            config = (await JetStream(operator.connection).api(f"CONSUMER.INFO.{JOURNAL}.{name}"))["config"]
            assert "deliver_subject" not in config
            assert (config["opt_start_seq"], config["filter_subject"], config["ack_policy"]) == (2, "mesh.v1.call.>", "none")
            assert config["inactive_threshold"] == INACTIVE * 1e9


class TestFollowing:
    pytestmark = CUT_WARNINGS

    async def test_over_a_restart_of_the_broker(self, broker: Broker, world: str) -> None:
        """The readers are gone with the broker's memory; the control plane makes others, and no call is missed or comes twice."""
        async with Mesh(name="ann", broker=world) as mesh, Mesh(name="local", broker=world) as caller, serving(world, "echo", Recorder()):
            seen: list[str] = []
            told = asyncio.Event()

            async def follow() -> None:
                async with aclosing(journal(mesh).calls(target="echo", follow=True, last=1)) as found:
                    async for call in found:
                        seen.append(call.correlation_id)
                        told.set()

            async def until(count: int) -> None:
                while len(seen) < count:
                    told.clear()
                    await told.wait()

            async with asyncio.timeout(40):
                await caller.call("echo", "one")
                task = asyncio.create_task(follow())
                await until(1)
                await caller.call("echo", "two")
                await until(2)
                await asyncio.to_thread(broker.kill)
                await asyncio.to_thread(broker.wait_ready)
                await settled(caller)
                await caller.call("echo", "three")
                await until(3)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            assert len(seen) == len(set(seen)) == 3


# ---- the command


async def test_the_command(broker: Broker, world: str, tmp_path: Path) -> None:
    here = ("--broker", world, "--state-dir", broker.server.state_dir.path)
    every = await command("journal", "--target", "calc", "--json", *here, cwd=tmp_path)
    assert [json.loads(line)["caller"] for line in every.out.splitlines()] == ["local"] * 3 + ["bob"] * 2
    named = await command("journal", "--target", "calc", "--json", "--name", "ann", *here, cwd=tmp_path)
    assert (named.code, named.out, named.err) == (0, every.out, "")

    path = tmp_path / "ann.creds"
    found = broker.authority.credentials("ann")
    assert found is not None
    path.write_bytes(found.read_bytes())
    path.chmod(0o600)
    elsewhere = ("--broker", world, "--state-dir", tmp_path / "nothing", "--credentials", path)
    filed = await command("journal", "--target", "calc", "--json", *elsewhere, cwd=tmp_path)
    assert (filed.code, filed.out, filed.err) == (0, every.out, "")
    one = await command("journal", "show", json.loads(every.out.splitlines()[0])["correlation_id"], "--json", *elsewhere, cwd=tmp_path)
    assert len(one.json["messages"]) == 2
    assert (await command("journal", "check", *elsewhere, cwd=tmp_path)).code == 0

    refused = await command("journal", "--json", "--name", "bob", *here, cwd=tmp_path)
    assert refused.error["code"] == "permission_denied"
    assert refused.error["hint"].startswith("`mesh auth explain bob 'read journal'`")

    for asked in ("journal", "doctor"):
        mistyped = await command(asked, "--json", "--name", "bobb", *here, cwd=tmp_path)
        assert mistyped.error["message"] == "nobody is named 'bobb' here"
    assert broker.authority.known("bobb") is None  # nobody is made by being named


def test_as_whom(broker: Broker, world: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An option says it, then a variable, then the credentials, then what the command is usually run as."""
    found = broker.authority.credentials("ann")
    assert make_settings("operator").name == "operator"
    assert make_settings("operator", credentials=found).name == "ann"
    assert make_settings("operator", credentials=found, name="bob").name == "bob"
    monkeypatch.setenv("MESH_CREDENTIALS", str(found))
    assert make_settings("operator").name == make_settings().name == "ann"
    monkeypatch.setenv("MESH_NAME", "bob")
    assert make_settings("operator").name == "bob"
    assert make_settings("operator", name="ann").name == "ann"
