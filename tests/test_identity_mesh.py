"""Participants with rights of their own: whom the broker lets in, what a caller hears that may not call, and who answers for whom."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mesh import Mesh, clock
from mesh.errors import CallTimeout, ConfigError, Denied, NotAdmitted
from mesh.identity.authority import Authority
from mesh.identity.push import push
from mesh.policy.rights import Policy, Role, parse_rule
from tests.conftest import Broker
from tests.helpers import CUT_WARNINGS, Recorder, Signals, hold, serving

pytestmark = CUT_WARNINGS


@pytest.fixture
async def answering(plane: str) -> AsyncIterator[Recorder]:
    """The agent `time`."""
    recorder = Recorder()
    async with asyncio.timeout(30), serving(plane, "time", recorder):
        yield recorder


async def apply(broker: Broker, *roles: Role) -> None:
    """Let a policy with these roles count, at the running broker too."""
    broker.authority.apply_policy(Policy.of(roles))
    await push(broker.authority, broker.url)


# ---- who gets in


async def test_without_credentials_nobody_gets_in(broker: Broker, tmp_path: Path) -> None:
    with pytest.raises(NotAdmitted, match="brings no credentials") as caught:
        async with Mesh(name="stranger", broker=broker.url, state_dir=tmp_path):
            pass
    assert caught.value.code == "not_admitted"
    assert "`mesh auth issue stranger`" in caught.value.hint


async def test_credentials_of_another_mesh_are_worth_nothing(broker: Broker, tmp_path: Path) -> None:
    foreign = Authority.open(tmp_path, create=True)
    foreign.issue("local", ("agent", "host"))
    with pytest.raises(NotAdmitted, match="does not admit 'local'"):
        async with Mesh(name="local", broker=broker.url, state_dir=tmp_path):
            pass


async def test_who_brings_anothers_credentials_is_told_so(broker: Broker, plane: str, tmp_path: Path) -> None:
    path = broker.authority.issue("ann", ("host",)).path
    with pytest.raises(ConfigError, match="takes us for 'ann', and not for 'bob'"):
        async with Mesh(name="bob", broker=broker.url, credentials=path):
            pass
    async with Mesh(broker=broker.url, credentials=path) as mesh:
        assert mesh.name == "ann"


async def test_who_comes_with_what_has_expired_is_told_so(broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    then = clock.wall_ns() - 3_600 * 10**9
    with monkeypatch.context() as context:
        context.setattr(clock, "wall_ns", lambda: then)
        path = broker.authority.issue("late", expires=timedelta(minutes=5)).path
    with pytest.raises(NotAdmitted, match="its credentials have expired"):
        async with Mesh(name="late", broker=broker.url, credentials=path):
            pass


async def test_a_broker_of_another_operator_is_not_told(broker: Broker, tmp_path: Path) -> None:
    foreign = Authority.open(tmp_path, create=True)
    with pytest.raises(NotAdmitted, match="trusts another operator") as caught:
        await push(foreign, broker.url)
    assert "Name the state directory of its mesh" in caught.value.hint


async def test_who_was_revoked_is_not_let_in_again(broker: Broker) -> None:
    broker.authority.issue("fired")
    kept = broker.authority.credentials("fired")
    assert kept is not None
    copy = kept.with_name("copy.creds")
    copy.write_text(kept.read_text())
    copy.chmod(0o600)
    broker.authority.revoke("fired")
    await push(broker.authority, broker.url)
    with pytest.raises(NotAdmitted):
        async with Mesh(name="fired", broker=broker.url, credentials=copy):
            pass


async def test_who_is_revoked_meanwhile_reads_it_in_its_log(broker: Broker) -> None:
    with capture_logs() as logs:
        async with asyncio.timeout(20), Mesh(name="sacked", broker=broker.url) as mesh:
            broker.authority.revoke("sacked")
            await push(broker.authority, broker.url)
            while not mesh.connection.turned_away:  # noqa: ASYNC110 - the connection has nobody to tell
                await asyncio.sleep(0.02)
    [told] = [each for each in logs if each["event"].startswith("the broker does not admit 'sacked' any more")]
    assert "`mesh auth issue sacked`" in told["hint"]


# ---- calls that no role allows


async def test_a_call_that_no_role_allows_fails_at_once(broker: Broker, answering: Recorder) -> None:
    """By what the broker said of our rights: nothing is sent."""
    await apply(broker, Role("reader", call=(parse_rule("time/now"),)))
    async with Mesh(name="reader1", broker=broker.url, roles=("reader",)) as mesh:
        refused: list[str] = []
        mesh.connection.on_denied(refused.append)
        assert "echo" in await mesh.call("time", "now", {})
        for agent, tool, action in (("time", "set", "call time/set"), ("git", "log", "call git/log")):
            with pytest.raises(Denied, match=f"may not {action}") as caught:
                await mesh.call(agent, tool, {})
            assert caught.value.code == "permission_denied"
            assert f"`mesh auth explain reader1 '{action}'`" in caught.value.hint
            assert caught.value.details["subject"].startswith("mesh.v1.")
        await mesh.connection.flush()
        assert refused == []
        assert [call.frame.name for call in answering.calls] == ["now"]


async def test_an_agent_calls_nobody(broker: Broker, answering: Recorder) -> None:
    async with Mesh(name="mute", broker=broker.url, roles=("agent",)) as mesh:
        with pytest.raises(Denied):
            await mesh.call("time", "now", {})
    assert answering.calls == []


@pytest.mark.parametrize("known", [True, False], ids=["a target that is known", "a target that is asked for first"])
async def test_the_brokers_refusal_ends_a_call_at_once(broker: Broker, answering: Recorder, known: bool) -> None:
    """Where our own look says nothing, as when rights were taken away a moment ago: the broker tells, and no deadline has to pass."""
    await apply(broker, Role("reader", call=(parse_rule("time/now"),)))
    async with Mesh(name="reader2", broker=broker.url, roles=("reader",)) as mesh:
        mesh.connection.rights = None
        if known:
            assert "echo" in await mesh.call("time", "now", {})
        async with asyncio.timeout(2):
            with pytest.raises(Denied, match="may not call"):
                await (mesh.call("time", "set", {}) if known else mesh.call("git", "log", {}))
        assert "echo" in await mesh.call("time", "now", {}), "the connection has not suffered"
    assert {call.frame.name for call in answering.calls} == {"now"}


async def test_rights_that_are_taken_away_count_at_once(broker: Broker, answering: Recorder) -> None:
    await apply(broker, Role("passing", call=(parse_rule("time"),)))
    async with Mesh(name="passer", broker=broker.url, roles=("passing",)) as mesh:
        assert "echo" in await mesh.call("time", "now", {})
        changes, subject = Signals(), mesh.subjects.call("time", "any", "passer", "tools/call", "now")
        mesh.connection.on_renewed(changes.tell)

        async def until(allowed: bool) -> None:
            await changes.until(lambda: mesh.connection.rights and mesh.connection.rights.may_publish(subject) is allowed, timeout=5)

        await apply(broker, Role("passing", call=(parse_rule("time/later"),)))
        await until(False)
        with pytest.raises(Denied):
            await mesh.call("time", "now", {})
        assert "echo" in await mesh.call("time", "later", {})
        await apply(broker, Role("passing", call=(parse_rule("time"),)))
        await until(True)
        assert "echo" in await mesh.call("time", "now", {})


# ---- answering for another


async def test_nobody_is_present_under_anothers_name(broker: Broker, answering: Recorder) -> None:
    async with Mesh(name="mallory", broker=broker.url) as mesh:
        for name, roles in (("time", ()), ("mallory", ("librarian",))):
            with pytest.raises(Denied, match="may not answer to") as caught:
                async with mesh.present(Recorder(), agent=name, roles=roles):
                    pass
            assert "mesh auth issue mallory" in caught.value.hint


async def test_a_host_that_is_no_agent_answers_to_nothing(broker: Broker, plane: str) -> None:
    async with Mesh(name="onlyhost", broker=broker.url, roles=("host",)) as mesh:
        with pytest.raises(Denied, match="may not answer to 'onlyhost'"):
            async with mesh.present(Recorder()):
                pass


async def test_the_broker_brings_nobody_anothers_calls_and_takes_no_answer_in_anothers_name(broker: Broker, plane: str) -> None:
    """Mallory looks at no rights of its own: it subscribes to time's calls and answers them, and what it sends is refused."""
    slow = Recorder(hold)
    async with (
        asyncio.timeout(20),
        serving(plane, "slow", slow),
        Mesh(name="mallory", broker=broker.url) as mallory,
        Mesh(name="caller", broker=broker.url) as caller,
    ):
        stolen: list[str] = []
        subjects, refused = mallory.subjects, asyncio.Event()
        mallory.connection.on_denied(lambda _: refused.set())
        for subject in (subjects.calls_to("slow", "any"), subjects.calls_to("slow", "*"), "mesh.v1.>", subjects.replies_to("caller", "*")):
            await mallory.connection.subscribe(subject, lambda message: stolen.append(message.subject))
        call = asyncio.create_task(caller.call("slow", "x", {}, timeout=1.0))
        await slow.signals.until(lambda: slow.calls)
        forged = b'{"jsonrpc":"2.0","id":"' + slow.calls[0].id.encode() + b'","result":{"forged":true}}'
        caller_name, connection, exchange = slow.calls[0].id.split(".")
        reply = subjects.reply_prefix(caller_name, "slow", connection, quiet=False) + exchange
        mallory.connection.send(reply, forged)
        await refused.wait()
        with pytest.raises(CallTimeout):
            await call
        await mallory.connection.flush()
        assert stolen == []


async def test_a_state_directory_may_hold_nothing_but_credentials(broker: Broker, tmp_path: Path) -> None:
    issued = broker.authority.issue("traveller", ("agent", "host"))
    there = tmp_path / "auth" / "users"
    there.mkdir(parents=True, mode=0o700)
    shutil.copy(issued.path, there)
    async with asyncio.timeout(10), Mesh(name="traveller", broker=broker.url, state_dir=tmp_path) as mesh:
        assert mesh.connection.rights is not None
