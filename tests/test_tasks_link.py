"""A host's link with tasks in front of it, apart from the mesh: what is held, what passes, what is told, and when."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from bridge.tasks import follow, link
from bridge.tasks.whose import Called
from mesh.errors import NoSuchAgent
from mesh.rpc import CLIENT_CAPABILITIES, MODERN, PROTOCOL_VERSION
from tests.task_world import META, RELATED, SAID, Host


@pytest.fixture
async def host() -> AsyncIterator[Host]:
    made = Host()
    yield made
    await made.link.close()


async def test_a_session_has_tasks_where_its_server_has_none(host: Host) -> None:
    assert "tasks" in (await host.begin())["capabilities"]
    await host.passes("tools/list")
    host.answers({"tools": [{"name": "add"}]})
    assert (await host.next())["result"]["tools"] == [{"name": "add", "execution": {"taskSupport": "optional"}}]
    made = (await host.ask("tools/call", name="add", task={"ttl": 120_000}))["task"]
    assert (made["taskId"], made["status"], made["ttl"]) == ("job-1", "working", 120_000)
    assert host.door.calls == [(Called("echo", "add", {}), 120, 1)]
    assert (await host.ask("tasks/get", taskId="job-1"))["status"] == "working"
    host.say("tasks/result", "r", taskId="job-1")
    await host.door.set("job-1", status="completed", result=SAID)
    said = [await host.next(), await host.next()]
    assert {"jsonrpc": "2.0", "id": "r", "result": {**SAID, "_meta": RELATED}} in said
    assert [each["params"]["status"] for each in said if each.get("method") == "notifications/tasks/status"] == ["completed"]
    assert (await host.ask("tasks/list"))["tasks"][0]["taskId"] == "job-1"
    assert (await host.ask("tasks/cancel", taskId="job-1"))["code"] == -32602


@pytest.mark.parametrize("version", ["2025-06-18", "2025-03-26", "2024-11-05"])
async def test_older_revisions_have_no_tasks(host: Host, version: str) -> None:
    assert "tasks" not in (await host.begin(version))["capabilities"]
    await host.passes("tools/call", name="add", arguments={}, task={})
    await host.passes("tasks/get", 2, taskId="job-1")


async def test_tasks_of_a_server_are_left_alone(host: Host) -> None:
    host.agent.capabilities = {"tools": {}, "tasks": {"list": {}}}
    assert (await host.begin())["capabilities"] == host.agent.capabilities
    await host.passes("tools/call", name="add", task={})
    for at, method in enumerate(("tasks/get", "tasks/result", "tasks/list", "tasks/cancel", "tools/list")):
        await host.passes(method, at + 2, taskId="x")
    host.agent.own = True
    await host.passes("tools/call", 10, name="add", _meta=META)
    await host.passes("tasks/get", 11, taskId="x", _meta=META)
    await host.passes("tasks/get", 12, taskId="x", _meta={PROTOCOL_VERSION: MODERN, CLIENT_CAPABILITIES: {}})
    await host.passes("subscriptions/listen", 13, notifications={"taskIds": ["x"]}, _meta=META)


async def test_a_tool_that_must_not_be_a_task_is_none(host: Host) -> None:
    await host.begin()
    assert (await host.ask("tools/call", name="never", task={}))["code"] == -32601
    await host.passes("tools/call", 2, name="never", _meta=META)
    await host.passes("tools/call", 3, name="unknown", task={})
    assert host.door.calls == []


async def test_a_quick_call_of_the_modern_era_is_answered_as_a_call(host: Host) -> None:
    host.say("tools/call", name="add", _meta=META)
    await host.signals.until(lambda: host.door.calls)
    await host.door.set("job-1", status="completed", result=SAID)
    assert (await host.next())["result"] == {"resultType": "complete", **SAID}


async def test_a_long_call_of_the_modern_era_becomes_a_task(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GRACE", 0.0)
    made = await host.modern("tools/call", name="add")
    assert (made["resultType"], made["taskId"], made["status"]) == ("task", "job-1", "working")
    assert (await host.modern("tasks/update", taskId="job-1", inputResponses={})) == {"resultType": "complete"}
    await host.door.set("job-1", status="completed", result=SAID)
    assert (await host.modern("tasks/get", taskId="job-1"))["result"] == SAID
    assert (await host.modern("tasks/cancel", taskId="job-1")) == {"resultType": "complete"}
    for method in ("tasks/get", "tasks/update", "tasks/cancel"):
        assert (await host.modern(method, taskId="job-9"))["code"] == -32602
    assert (await host.ask("tasks/get", taskId="job-1", _meta={**META, CLIENT_CAPABILITIES: {}}))["code"] == -32021


async def test_a_call_that_is_stored_becomes_a_task_though_nobody_can_say_how_it_stands(host: Host) -> None:
    """An error would say that nothing is being done, and its host would call again."""
    host.door.away = NoSuchAgent("no control plane runs")
    made = await host.modern("tools/call", name="add")
    assert (made.get("resultType"), made.get("taskId"), made.get("status")) == ("task", "job-1", "working")


async def test_a_client_that_can_be_asked_keeps_its_calls(host: Host) -> None:
    """A job asks nobody: only a tool that says itself that it may be a task becomes one then."""
    meta = {**META, CLIENT_CAPABILITIES: {"elicitation": {}, **META[CLIENT_CAPABILITIES]}}
    await host.passes("tools/call", name="add", _meta=meta)
    host.say("tools/call", 2, name="may", _meta=meta)
    await host.signals.until(lambda: host.door.calls)


@pytest.mark.proves("a task runs twice only where its tool says that it may")
async def test_only_a_tool_that_says_so_is_tried_again(host: Host) -> None:
    """In both eras: who asks for a task wants to leave, and has not said that the work may be done twice."""
    await host.begin()
    for at, name in enumerate(("add", "read", "unheard")):
        await host.ask("tools/call", at, name=name, task={})
    host.say("tools/call", 5, name="add", _meta=META)
    host.say("tools/call", 6, name="read", _meta=META)
    await host.signals.until(lambda: len(host.door.calls) == 5)
    assert [(called.tool, attempts) for called, _, attempts in host.door.calls] == [
        ("add", 1), ("read", 3), ("unheard", 1), ("add", 1), ("read", 3),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["denied", "full", "large", "unheard", "huge"])
async def test_what_cannot_be_a_job_is_a_call_where_nobody_asked_for_one(host: Host, name: str) -> None:
    await host.passes("tools/call", name=name, _meta=META)
    assert host.door.calls == []


async def test_a_host_listens_to_so_many_tasks_and_no_more(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GRACE", 0.0)
    monkeypatch.setattr(follow, "MOST_HEARD", 1)
    await host.modern("tools/call", name="add")
    host.say("subscriptions/listen", "l", notifications={"taskIds": ["job-1"]}, _meta=META)
    assert (await host.next())["method"] == "notifications/subscriptions/acknowledged"
    assert (await host.next())["method"] == "notifications/tasks"
    assert (await host.modern("subscriptions/listen", "m", notifications={"taskIds": ["job-1"]}))["data"]["mesh"] == "busy"
    host.say("notifications/cancelled", None, requestId="l")
    said: dict[str, Any] = {}
    while said.get("method") != "notifications/subscriptions/acknowledged":
        host.say("subscriptions/listen", "n", notifications={"taskIds": ["job-1"]}, _meta=META)
        said = await host.next()


async def test_a_listen_for_many_tasks_costs_few_questions(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control plane answers a participant 200 a minute."""
    monkeypatch.setattr(link, "GRACE", 0.0)
    for at in range(50):
        await host.modern("tools/call", at, name="add")
    host.door.asked = 0
    ids = [*host.door.tasks, "job-99"]
    host.say("subscriptions/listen", "l", notifications={"taskIds": ids}, _meta=META)
    assert (await host.next())["params"]["notifications"]["taskIds"] == ids[:-1]
    assert host.door.asked < 10
    host.say("subscriptions/listen", "m", notifications={"taskIds": [str(at) for at in range(101)]}, _meta=META)
    while (said := await host.next()).get("id") != "m":
        pass
    assert "at most 100" in said["error"]["message"]


async def test_who_gives_up_before_it_knows_the_task_leaves_none(host: Host) -> None:
    host.say("tools/call", name="add", _meta=META)
    await host.signals.until(lambda: host.door.calls)
    host.say("notifications/cancelled", None, requestId=1)
    await host.signals.until(lambda: host.door.given_up)
    assert host.door.given_up == ["job-1"]
    assert host.heard.empty()


async def test_cancelling_in_the_handshake_era_ends_in_cancelled(host: Host) -> None:
    await host.begin()
    await host.ask("tools/call", name="add", task={})
    host.say("tasks/cancel", "c", taskId="job-1")
    said = [await host.next(), await host.next()]
    [answer] = [each for each in said if each.get("id") == "c"]
    assert answer["result"]["status"] == "cancelled"
    assert (await host.ask("tasks/result", taskId="job-1"))["data"]["mesh"] == "job_cancelled"


async def test_progress_goes_under_the_token_of_the_call(host: Host) -> None:
    await host.begin()
    await host.ask("tools/call", name="add", task={}, _meta={"progressToken": "p"})
    await asyncio.sleep(0)
    await host.door.set("job-1", progress=(1.0, 3.0), message="one of three")
    said = await host.next()
    assert said["method"] == "notifications/progress"
    assert said["params"] == {"progressToken": "p", "progress": 1.0, "total": 3.0, "message": "one of three", "_meta": RELATED}


async def test_tasks_come_in_pages(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "PAGE", 2)
    await host.begin()
    for at in range(5):
        await host.ask("tools/call", at, name="add", task={})
    host.door.tasks["other"] = replace(host.door.tasks["job-1"], id="other", agent="other")
    found: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = await host.ask("tasks/list", **cursor)
        found += [each["taskId"] for each in page["tasks"]]
        if "nextCursor" not in page:
            break
        cursor = {"cursor": page["nextCursor"]}
    assert found == [f"job-{at}" for at in range(1, 6)]
    assert (await host.ask("tasks/get", taskId="other"))["code"] == -32602


async def test_a_listen_for_tasks_alone(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GRACE", 0.0)
    await host.modern("tools/call", name="add")
    host.say("subscriptions/listen", "l", notifications={"taskIds": ["job-1", "job-9"]}, _meta=META)
    first = await host.next()
    assert first["method"] == "notifications/subscriptions/acknowledged"
    assert first["params"]["notifications"] == {"taskIds": ["job-1"]}
    assert (await host.next())["params"]["status"] == "working"
    await host.door.set("job-1", status="completed", result=SAID)
    last = await host.next()
    assert last["method"] == "notifications/tasks"
    assert last["params"]["result"] == SAID
    assert last["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": "l"}
    assert host.agent.taken == []


async def test_a_listen_for_tasks_and_for_more(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "GRACE", 0.0)
    await host.modern("tools/call", name="add")
    host.say("subscriptions/listen", "l", notifications={"toolsListChanged": True, "taskIds": ["job-1"]}, _meta=META)
    await host.signals.until(lambda: host.agent.taken)
    assert json.loads(host.agent.taken[0].raw)["params"]["notifications"] == {"toolsListChanged": True}
    to = host.agent.to["l"]
    assert to is not None
    params = {"_meta": {"io.modelcontextprotocol/subscriptionId": "l"}, "notifications": {"toolsListChanged": True}}
    to(json.dumps({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": params}).encode(), False)
    assert (await host.next())["params"]["notifications"] == {"toolsListChanged": True, "taskIds": ["job-1"]}
    assert (await host.next())["method"] == "notifications/tasks"
    host.say("notifications/cancelled", None, requestId="l")
    assert host.agent.taken[-1].method == "notifications/cancelled"


async def test_what_goes_wrong_is_the_requests_answer(host: Host) -> None:
    await host.begin()
    assert (await host.ask("tools/call", name="denied", task={}))["data"]["mesh"] == "permission_denied"
    host.say("tasks/result", "r", taskId="job-1")
    assert (await host.next())["error"]["code"] == -32602
    await host.ask("tools/call", name="add", task={})
    host.say("tasks/result", "r", taskId="job-1")
    assert (await host.ask("tasks/get", "r", taskId="job-1"))["code"] == -32600


async def test_everything_else_passes(host: Host) -> None:
    await host.begin()
    said: list[tuple[str, dict[str, Any]]] = [
        ("tools/call", {"name": "add", "arguments": {"task": {}}}),
        ("tools/call", {"name": "add", "arguments": {}, "_meta": {**META, CLIENT_CAPABILITIES: {}}}),
        ("subscriptions/listen", {"notifications": {"toolsListChanged": True}, "_meta": META}),
        ("vendor/method", {"taskId": "job-1"}),
        ("prompts/get", {"name": "task"}),
    ]
    for at, (method, params) in enumerate(said):
        await host.passes(method, at + 10, **params)
    host.link.receive(b'{"jsonrpc":"2.0","id":5,"result":{}}')
    assert host.agent.taken[-1].id == 5
    host.say("tasks/get", None, taskId="job-1")
    assert host.agent.taken[-1].method == "tasks/get"
