"""What fails fails for a person as for a program: the exit code is the same with `--json`, and what a program reads is JSON."""

import asyncio
import json
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh import Mesh
from mesh.broker import AgentMessage, Reject
from mesh.cli.jobs import WITH_ERROR
from mesh.errors import BrokerUnavailable
from mesh.jobs import Reject as RejectJob
from mesh.jobs import Work
from tests.cli_helpers import mesh
from tests.conftest import Broker
from tests.helpers import Background
from tests.job_world import joined, worker
from tests.test_cli import ENTRY, Echo

FAILING = [
    line.split()
    for line in """
    call echo broken
    call echo nosuch
    call ecko echo
    call echo echo count=many
    call echo silent --timeout 0.2
    tools ecko
    stream ecko upper --content x
    send echo refused --wait --timeout 20
    send echo refused --priority urgent
    send echo refused --cron never
    mailbox
    listen --name nobody
    schedules cancel nosuch
    jobs submit hand broken --wait
    jobs submit hand refused --wait
    jobs submit hand broken --keep 1e9
    jobs wait BROKEN
    jobs wait REFUSED
    jobs wait 7-aaaa
    jobs show 7-aaaa
    jobs cancel nosuch
    jobs list --all
    publish build.*
    publish build.done --priority urgent
    events listen build.* --filter 1+
    events replay build.* --from 10m --filter 1+
    events replay build.* --from 10m --speed 0
    events subscriptions list --all --name local
    events subscriptions delete nosuch
    events schemas show nosuch
    events schemas check nosuch --data 1
    events schemas delete nosuch
    dlq list --name local
    dlq show 99
    dlq edit 99 --content 1
    dlq redrive 99
    dlq redrive
    dlq drop 99
    journal --name nobody
    journal show nosuch
    topology plan --name local
    auth show nosuch
    auth revoke nosuch
    auth explain nosuch call echo
    """.strip().splitlines()
]


@pytest.fixture(scope="module")
def jobs(plane: str) -> Iterator[dict[str, str]]:
    """Everybody whom the commands ask is there. Two jobs are over: one whose tool says that it failed, and one that was refused."""
    ids: dict[str, str] = {}

    @asynccontextmanager
    async def everybody() -> AsyncIterator[None]:
        async with (
            Mesh(name="echo", broker=plane) as agent,
            agent.present(Echo(), entry=ENTRY),
            agent.messages.subscribe_to_messages(_refuse),
            worker(plane, "hand", _work),
            joined(plane, "local") as me,
        ):
            for tool in ("broken", "refused"):
                ids[tool.upper()] = (await me.jobs.wait((await me.jobs.submit("hand", tool)).id, timeout=20)).id
            yield

    with Background(everybody):
        yield ids


async def _work(work: Work) -> dict[str, object]:
    if work.tool == "refused":
        raise RejectJob("not mine")
    return {"content": [{"type": "text", "text": "no such note"}], "isError": True}


async def _refuse(message: AgentMessage) -> None:
    raise Reject("not mine")


@pytest.mark.parametrize("words", FAILING, ids=" ".join)
async def test_the_exit_code_is_the_same_with_json(broker: Broker, jobs: dict[str, str], tmp_path: Path, words: list[str]) -> None:
    words = [jobs.get(word, word) for word in words]
    people, programs = await asyncio.gather(*(mesh(*words, *more, *broker.options, cwd=tmp_path) for more in ((), ("--json",))))
    assert (people.code, programs.code) == (1, 1), (people, programs)
    assert people.err
    assert not people.err.startswith("Traceback")
    assert all(json.loads(said) for said in (programs.out, programs.err) if said)
    assert programs.out or programs.err


async def test_a_job_whose_tool_failed_is_done_with_an_error(broker: Broker, jobs: dict[str, str], tmp_path: Path) -> None:
    """The word for its state stays: the job's life goes on no other way. A person sees at once what a program reads in the result."""
    listed = await mesh("jobs", "list", *broker.options, cwd=tmp_path)
    assert f"{jobs['BROKEN']}  {WITH_ERROR}  " in listed.out
    shown = await mesh("jobs", "show", jobs["BROKEN"], *broker.options, cwd=tmp_path)
    assert f"{WITH_ERROR}\n" in shown.out
    assert "no such note" in shown.out
    over = await mesh("jobs", "cancel", jobs["BROKEN"], *broker.options, cwd=tmp_path)
    assert (over.code, WITH_ERROR in over.out) == (0, True)
    (record,) = [
        each for each in (await mesh("jobs", "list", "--json", *broker.options, cwd=tmp_path)).json if each["id"] == jobs["BROKEN"]
    ]
    assert (record["state"], record["result"]) == ("done", {"isError": True})


async def test_what_is_not_asked_properly_is_json_too(tmp_path: Path) -> None:
    for words in ("jobs list --nosuch", "send", "send a b --in soon", "nosuch", "dlq show x"):
        ended = await mesh(*words.split(), "--json", cwd=tmp_path)
        assert (ended.code, ended.out, json.loads(ended.err)["code"]) == (2, "", "bad_usage"), words
        assert (await mesh(*words.split(), cwd=tmp_path)).code == 2


async def test_a_program_in_another_directory_is_told_where_it_looked_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MESH_STATE_DIR", raising=False)
    monkeypatch.delenv("MESH_BROKER", raising=False)
    with pytest.raises(BrokerUnavailable, match=f"no mesh runs on {tmp_path}/.mesh") as gone:
        await Mesh().__aenter__()
    assert "hint: start one with `mesh up`" in "".join(traceback.format_exception(gone.value))
