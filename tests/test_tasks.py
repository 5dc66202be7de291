"""Tasks, the pure part: what a host asks, what it is told, and what is announced, in both eras."""

import json
from typing import Any

import mcp_types
import pytest

from bridge.ports.http_headers import modern_headers
from bridge.tasks import announce, told
from bridge.tasks.asked import MOST_IDS, About, Asked, Listen, Page, Submit, mentions, read
from bridge.tasks.task import Task, task_of
from bridge.tasks.words import EXTENSION, KEEP, LONGEST_KEEP, SHORTEST_KEEP
from bridge.web.rules import modern_problem
from mesh.policy.job_life import State
from mesh.rpc import CLIENT_CAPABILITIES, MODERN, PROTOCOL_VERSION
from mesh.wire.job import JobRecord
from mesh.wire.jsonrpc import scan

DECLARED: dict[str, Any] = {"extensions": {EXTENSION: {}}}
LACKING = {"code": -32021, "data": {"requiredCapabilities": DECLARED}}
CALL = {"name": "add", "arguments": {}}


def handshake(method: str, **params: Any) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, "method": method, "params": params}).encode()


def modern(method: str, capabilities: Any = DECLARED, **params: Any) -> bytes:
    return handshake(method, **params, _meta={PROTOCOL_VERSION: MODERN, CLIENT_CAPABILITIES: capabilities})


def error_in(raw: Any) -> dict[str, Any]:
    assert isinstance(raw, bytes)
    found = json.loads(raw)
    assert found["id"] == 7
    return dict(found["error"])


# ---- asked


@pytest.mark.parametrize(
    ("raw", "asked"),
    [
        (handshake("tools/call", **CALL), None),
        (handshake("tools/call", **CALL, task={}), Submit(KEEP, must=True)),
        (handshake("tools/call", **CALL, task={"ttl": 120_000}), Submit(120, must=True)),
        (handshake("tools/call", **CALL, task={"ttl": 1}), Submit(SHORTEST_KEEP, must=True)),
        (handshake("tools/call", **CALL, task={"ttl": 10**12}), Submit(LONGEST_KEEP, must=True)),
        (handshake("tools/call", **CALL, task={"ttl": "long"}), Submit(KEEP, must=True)),
        (handshake("tools/call", **CALL, task=True), None),
        (handshake("tools/call", name="add", arguments={"task": {}}), None),
        (handshake("tasks/get", taskId="a"), About("tasks/get", "a")),
        (handshake("tasks/result", taskId="a"), About("tasks/result", "a")),
        (handshake("tasks/cancel", taskId="a"), About("tasks/cancel", "a")),
        (handshake("tasks/update", taskId="a"), None),
        (handshake("tasks/list"), Page(None)),
        (handshake("tasks/list", cursor="b"), Page("b")),
        (handshake("subscriptions/listen", notifications={"taskIds": ["a"]}), None),
        (modern("tools/call", **CALL), Submit()),
        (modern("tools/call", {}, **CALL), None),
        (modern("tools/call", {"extensions": {"other": {}}}, **CALL), None),
        (modern("tools/call", {"extensions": {EXTENSION: True}}, **CALL), None),
        (modern("tools/call", {"tasks": {}}, **CALL, task={"ttl": 1}), None),
        (modern("tools/call", {**DECLARED, "elicitation": {}}, **CALL), Submit(askable=True)),
        (modern("tools/call", **CALL, task={"ttl": 1}), Submit()),
        (modern("tools/call", **CALL, inputResponses={}, requestState="s"), None),
        (modern("tasks/get", taskId="a"), About("tasks/get", "a")),
        (modern("tasks/update", taskId="a", inputResponses={}), About("tasks/update", "a")),
        (modern("tasks/cancel", taskId="a"), About("tasks/cancel", "a")),
        (modern("subscriptions/listen", notifications={"taskIds": ["a", "b", "a"]}), Listen(("a", "b"), others=False)),
        (modern("subscriptions/listen", notifications={"taskIds": ["a"], "toolsListChanged": True}), Listen(("a",), others=True)),
        (modern("subscriptions/listen", {}, notifications={"toolsListChanged": True}), None),
        (modern("prompts/get", name="taskIds"), None),
    ],
)
def test_what_a_host_asks(raw: bytes, asked: Asked | None) -> None:
    assert read(scan(raw)) == asked


@pytest.mark.parametrize(
    ("raw", "wrong"),
    [
        (handshake("tasks/get"), {"code": -32602}),
        (handshake("tasks/result", taskId=3), {"code": -32602}),
        (handshake("tasks/list", cursor=3), {"code": -32602}),
        (modern("tasks/cancel"), {"code": -32602}),
        (modern("subscriptions/listen", notifications={"taskIds": [3]}), {"code": -32602}),
        (modern("subscriptions/listen", notifications={"taskIds": ["a"] * (MOST_IDS + 1)}), {"code": -32602}),
        (modern("tasks/result", taskId="a"), {"code": -32601}),
        (modern("tasks/list"), {"code": -32601}),
        (modern("tasks/get", {}, taskId="a"), LACKING),
        (modern("tasks/update", {"tasks": {}}, taskId="a"), LACKING),
        (modern("tasks/cancel", {}, taskId="a"), LACKING),
        (modern("subscriptions/listen", {}, notifications={"taskIds": ["a"]}), LACKING),
    ],
)
def test_what_is_refused(raw: bytes, wrong: dict[str, Any]) -> None:
    said = error_in(read(scan(raw)))
    assert {key: said.get(key) for key in wrong} == wrong


def test_a_call_is_searched_for_one_word() -> None:
    assert not mentions(scan(handshake("tools/call", **CALL)))
    assert mentions(scan(handshake("tools/call", **CALL, task={})))
    assert not mentions(scan(modern("tools/call", {}, **CALL, task={})))
    assert mentions(scan(modern("tools/call", **CALL)))
    assert mentions(scan(modern("tools/call", **CALL).replace(b"/", b"\\/")))  # as some writers of JSON have it


# ---- told

WORKING = Task("t", "echo", "working", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", 60_000, "3 of 7", progress=(3, 7))
SAID = {"content": [{"type": "text", "text": "12"}], "isError": False}
DONE = Task("t", "echo", "completed", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", 60_000, result={**SAID, "_meta": {"a": 1}})
WRONG = Task("t", "echo", "completed", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", 60_000, result={**SAID, "isError": True})
FAILED = Task("t", "echo", "failed", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", 60_000, "no", error={"code": -32603, "message": "no"})
STOPPED = Task("t", "echo", "cancelled", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z", 60_000)

OLD = {
    "taskId": "t", "status": "working", "statusMessage": "3 of 7",
    "createdAt": "2026-01-01T00:00:00Z", "lastUpdatedAt": "2026-01-01T00:00:01Z", "ttl": 60_000, "pollInterval": 1_000,
}  # fmt: skip
NEW = {key: value for key, value in OLD.items() if key not in ("ttl", "pollInterval")} | {"ttlMs": 60_000, "pollIntervalMs": 1_000}


def body(raw: bytes) -> Any:
    found = json.loads(raw)
    assert found["id"] == 7
    return found["result"]


def test_a_task_in_the_handshake_era_is_what_the_sdk_reads() -> None:
    assert body(told.created(b"7", WORKING, modern=False)) == {"task": OLD}
    assert mcp_types.CreateTaskResult.model_validate(body(told.created(b"7", WORKING, modern=False))).task.task_id == "t"
    assert body(told.got(b"7", WORKING, modern=False)) == OLD
    assert mcp_types.GetTaskResult.model_validate(OLD).status == "working"
    assert mcp_types.ListTasksResult.model_validate(body(told.page(b"7", [WORKING, DONE], "c"))).next_cursor == "c"
    said = json.loads(told.changed(DONE, modern=False))
    assert mcp_types.TaskStatusNotification.model_validate(said).params.status == "completed"
    assert "result" not in said["params"]
    progress = json.loads(told.progressed(WORKING, b'"p"'))
    assert progress["params"] == {
        "progressToken": "p", "progress": 3, "total": 7, "message": "3 of 7",
        "_meta": {"io.modelcontextprotocol/related-task": {"taskId": "t"}},
    }  # fmt: skip


def test_a_task_in_the_modern_era_brings_its_outcome() -> None:
    assert body(told.created(b"7", WORKING, modern=True)) == {"resultType": "task", **NEW}
    assert body(told.got(b"7", WORKING, modern=True)) == {"resultType": "complete", **NEW}
    assert body(told.got(b"7", DONE, modern=True))["result"] == {**SAID, "_meta": {"a": 1}}
    assert body(told.got(b"7", FAILED, modern=True))["error"] == FAILED.error
    assert {"result", "error"}.isdisjoint(body(told.got(b"7", STOPPED, modern=True)))
    assert body(told.acknowledged(b"7")) == {"resultType": "complete"}
    said = json.loads(told.changed(DONE, modern=True, listen=b'"l"'))
    assert said["method"] == "notifications/tasks"
    assert said["params"]["_meta"] == {"io.modelcontextprotocol/subscriptionId": "l"}
    assert said["params"]["result"]["content"] == SAID["content"]
    assert json.loads(told.listening(b'"l"', ["t"]))["params"] == {
        "_meta": {"io.modelcontextprotocol/subscriptionId": "l"}, "notifications": {"taskIds": ["t"]},
    }  # fmt: skip


def test_a_result_is_the_calls_own() -> None:
    related = {"io.modelcontextprotocol/related-task": {"taskId": "t"}}
    assert body(told.outcome(b"7", DONE, modern=False)) == {**SAID, "_meta": {"a": 1, **related}}
    assert body(told.outcome(b"7", DONE, modern=True)) == {"resultType": "complete", **SAID, "_meta": {"a": 1}}
    assert error_in(told.outcome(b"7", FAILED, modern=False)) == FAILED.error
    assert error_in(told.outcome(b"7", STOPPED, modern=False))["data"] == {"mesh": "job_cancelled"}


def test_a_tool_that_says_that_it_failed_has_failed_in_the_handshake_era_only() -> None:
    assert body(told.got(b"7", WRONG, modern=False))["status"] == "failed"
    assert body(told.outcome(b"7", WRONG, modern=False))["isError"] is True
    assert body(told.got(b"7", WRONG, modern=True))["status"] == "completed"


def job(state: str, **more: Any) -> JobRecord:
    said = {"id": "3-abc", "target": "echo", "caller": "host", "method": "tools/call", "name": "add", "keep": 60}
    return JobRecord(**{**said, "state": state, "created_ns": 0, "updated_ns": 10**9, **more})


@pytest.mark.parametrize(
    ("record", "status", "message", "outcome"),
    [
        (job("queued"), "working", "waits for echo", None),
        (job("queued", attempts=1, error={"code": 1, "message": "no"}), "working", "waits for echo to try it again", None),
        (job("running", progress=1.0, total=3.0, message="one"), "working", "one", None),
        (job("done", result=SAID), "completed", "", SAID),
        (job("done", result={"resultType": "input_required"}), "failed", "the server asks for input, and a task asks nobody", None),
        (job("failed", error={"code": -32123, "message": "no"}), "failed", "no", {"code": -32123, "message": "no"}),
        (job("expired"), "failed", "the task was not done within its time", None),
        (job("cancelled"), "cancelled", "", None),
    ],
)
def test_a_job_is_a_task(record: JobRecord, status: str, message: str, outcome: Any) -> None:
    task = task_of(record)
    assert (task.status, task.message, task.ttl, task.agent, task.id) == (status, message, 60_000, "echo", "3-abc")
    assert (task.created, task.updated) == ("1970-01-01T00:00:00.000000Z", "1970-01-01T00:00:01.000000Z")
    assert (task.error is not None) is (status == "failed")
    assert outcome in (None, task.result, task.error)
    assert task.progress == ((1.0, 3.0) if record.progress else None)


def test_every_state_of_a_job_is_a_status() -> None:
    assert {task_of(job(state)).status for state in State} == {"working", "completed", "failed", "cancelled"}


# ---- announced


def initialized(capabilities: dict[str, Any], version: str = "2025-11-25") -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, "result": {"protocolVersion": version, "capabilities": capabilities}}).encode()


def discovered(capabilities: dict[str, Any]) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, "result": {"resultType": "complete", "capabilities": capabilities}}).encode()


def test_tasks_are_announced_where_the_server_has_none() -> None:
    raw, ours = announce.in_initialize(initialized({"tools": {}}))
    assert ours
    assert body(raw)["capabilities"] == {"tasks": {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}, "tools": {}}
    raw, ours = announce.in_discover(discovered({"tools": {}}))
    assert ours
    assert body(raw)["capabilities"] == {"extensions": {EXTENSION: {}}, "tools": {}}
    raw, ours = announce.in_discover(discovered({"tools": {}, "extensions": {"other": {}}}))
    assert ours
    assert body(raw)["capabilities"]["extensions"] == {EXTENSION: {}, "other": {}}


@pytest.mark.parametrize(
    "raw",
    [
        initialized({"tools": {}, "tasks": {}}),
        initialized({"tools": {}, "tasks": {"requests": {"tools": {"call": {}}}}}),
        initialized({"prompts": {}}),
        initialized({"tools": {}}, "2025-06-18"),
        b'{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"no"}}',
        b'{"jsonrpc":"2.0","id":7,"result":{}}',
    ],
)
def test_a_servers_own_answer_to_initialize_stays(raw: bytes) -> None:
    assert announce.in_initialize(raw) == (raw, False)


@pytest.mark.parametrize(
    "raw",
    [
        discovered({"tools": {}, "extensions": {EXTENSION: {}}}),
        discovered({"prompts": {}}),
        b'{"jsonrpc":"2.0","id":7,"error":{"code":-32603,"message":"no"}}',
    ],
)
def test_a_servers_own_answer_to_discover_stays(raw: bytes) -> None:
    assert announce.in_discover(raw) == (raw, False)


def test_tools_that_must_not_be_tasks_stay_so() -> None:
    tools = [
        b'{"name":"silent","x":1E400}',
        b'{"name":"never","execution":{"taskSupport":"forbidden"}}',
        b'{"name":"always","execution":{"taskSupport":"required"}}',
        b'{"name":"other","execution":{"x":1}}',
        b'{ "name":"none","execution":{}}',
        b'{"name":"secret"}',
        b'{"title":"nameless"}',
    ]
    head = b'{"jsonrpc":"2.0","id":7,"result":{"tools":['
    raw = announce.in_tools(head + b",".join(tools) + b"]}}", lambda name: name != "secret")
    tools[0] = b'{"execution":{"taskSupport":"optional"},"name":"silent","x":1E400}'
    tools[3] = b'{"name":"other","execution":{"taskSupport":"optional","x":1}}'
    tools[4] = b'{ "name":"none","execution":{"taskSupport":"optional"}}'
    assert raw == head + b",".join(tools) + b"]}}"


# ---- over HTTP


def test_a_gateway_reads_the_task_in_a_header() -> None:
    frame = scan(modern("tasks/get", taskId="a"))
    pairs = [(key.lower().encode(), value.encode()) for key, value in modern_headers(frame).items()]
    assert dict(pairs)[b"mcp-name"] == b"a"
    assert modern_problem(dict(pairs), pairs, frame) is None
    without = [(key, value) for key, value in pairs if key != b"mcp-name"]
    assert modern_problem(dict(without), without, frame) is None
    other = dict(pairs) | {b"mcp-name": b"b"}
    problem = modern_problem(other, list(other.items()), frame)
    assert problem is not None
    assert problem.code == -32020
