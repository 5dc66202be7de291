"""All agents as one, the pure part: searching the tools, and finding whose a request is."""

import json
from typing import Any

import pytest

from bridge.gathered.answers import named
from bridge.gathered.catalog import PROMPTS, RESOURCES, TEMPLATES, TOOLS, Offer, build
from bridge.gathered.find import Index, answer
from bridge.gathered.routing import Routed, route
from mesh.errors import MalformedMessage
from mesh.wire.jsonrpc import dumps, scan

# ---- search


SEARCHED = build(
    [
        Offer(
            "git",
            lists={
                TOOLS: (
                    {"name": "git_log", "description": "Shows the commit logs", "inputSchema": {"type": "object"}},
                    {"name": "git_commit", "title": "Record changes", "description": "Records changes to the repository"},
                )
            },
        ),
        Offer("time", lists={TOOLS: ({"name": "getCurrentTime", "description": "The time in a timezone"}, {"name": "convert_time"})}),
    ]
)


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("commit", "git__git_commit"),
        ("show logs", "git__git_log"),
        ("current time", "time__getCurrentTime"),
        ("record", "git__git_commit"),
        ("timezone", "time__getCurrentTime"),
        ("CONVERT", "time__convert_time"),
    ],
)
def test_search(query: str, first: str) -> None:
    assert Index(SEARCHED).search(query)[0].name == first


def test_search_bounds() -> None:
    index = Index(SEARCHED)
    assert index.search("nothing like it") == ()
    assert len(index.search("")) == 4
    assert [each.name for each in index.search("", agent="time")] == ["time__convert_time", "time__getCurrentTime"]
    assert len(index.search("time git", limit=1)) == 1
    assert len(index.search("x " * 100_000)) == 0


def test_find_tools_answers() -> None:
    found = answer(Index(SEARCHED), {"query": "log", "limit": 1})
    (tool,) = found["structuredContent"]["tools"]
    assert tool == {"name": "git__git_log", "agent": "git", "description": "Shows the commit logs", "inputSchema": {"type": "object"}}
    assert json.loads(found["content"][0]["text"]) == found["structuredContent"]
    assert answer(Index(SEARCHED), {"query": 1})["isError"]
    assert answer(Index(SEARCHED), {"query": "", "limit": True})["isError"]


# ---- routing


CATALOG = build(
    [
        Offer("a", lists={TOOLS: ({"name": "x.y"},), PROMPTS: ({"name": "p"},)}),
        Offer("b", lists={RESOURCES: ({"uri": "n:1"}, {"uri": "m:1"}), TEMPLATES: ({"uriTemplate": "n:{id}"},)}),
        Offer("c", lists={RESOURCES: ({"uri": "n:1"},)}),
    ]
)


def routed(method: str, params: bytes, *, only_find: bool = False) -> Any:
    return route(scan(b'{"jsonrpc":"2.0","id":7,"method":' + dumps(method) + b',"params":' + params + b"}"), CATALOG, only_find=only_find)


def test_only_the_name_is_replaced() -> None:
    found = routed("tools/call", b'{ "name" : "a__x_y","arguments":{"n":1E400,"name":"a__x_y","n":2},"_meta":null}')
    assert isinstance(found, Routed)
    assert found.agent == "a"
    assert found.frame.raw.endswith(b'"params":{ "name" : "x.y","arguments":{"n":1E400,"name":"a__x_y","n":2},"_meta":null}}')


def test_call_tool_becomes_the_call_it_asks_for() -> None:
    asked = b'{"name":"call_tool","arguments":{"agent_tool":"a__x_y","arguments":{"n":1E400}},"_meta":{}}'
    assert routed("tools/call", asked, only_find=True).frame.raw.endswith(b'"params":{"name":"x.y","arguments":{"n":1E400},"_meta":{}}}')
    bare = b'{"name":"call_tool","arguments":{"agent_tool":"a__x_y"}}'
    assert routed("tools/call", bare, only_find=True).frame.raw.endswith(b'"params":{"name":"x.y","arguments":{}}}')
    assert b"Unknown tool" in routed("tools/call", bare)
    with pytest.raises(MalformedMessage):
        routed("tools/call", b'{"name":"call_tool","arguments":{}}', only_find=True)


def test_a_tool_that_is_new_to_the_registry_reaches_its_agent() -> None:
    assert routed("tools/call", b'{"name":"a__new"}').own == "new"


def test_what_nobody_has_is_refused() -> None:
    assert (
        json.loads(routed("tools/call", b'{"name":"gone__x"}'))["error"]["message"]
        == "Unknown tool: gone__x (agent 'gone' is not on the mesh now)"
    )
    assert json.loads(routed("resources/read", b'{"uri":"q:1"}'))["error"]["code"] == -32002
    said = json.loads(routed("resources/read", b'{"uri":"n:1"}'))["error"]
    assert said["data"] == {"mesh": "ambiguous", "agents": {"b": "mesh://b/n:1", "c": "mesh://c/n:1"}}
    assert json.loads(routed("vendor/x", b"{}"))["error"]["code"] == -32601


def test_prompts_resources_and_completions() -> None:
    assert routed("prompts/get", b'{"name":"a__p"}').frame.name == "p"
    assert routed("resources/read", b'{"uri":"mesh://b/n:1"}').frame.name == "n:1"
    assert routed("resources/subscribe", b'{"uri":"m:1"}').agent == "b"
    done = routed("completion/complete", b'{"ref":{"type":"ref/prompt","name":"a__p"},"argument":{"name":"x","value":""}}')
    assert done.frame.raw.endswith(b'{"ref":{"type":"ref/prompt","name":"p"},"argument":{"name":"x","value":""}}}')
    done = routed("completion/complete", b'{"ref":{"type":"ref/resource","uri":"n:{id}"},"argument":{}}')
    assert (done.agent, done.own) == ("b", "n:{id}")
    with pytest.raises(MalformedMessage):
        routed("completion/complete", b'{"ref":[]}')


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (b'{"code":1,"message":"no"}', b'{"data":{"agent":"a"},"code":1,"message":"no"}'),
        (b'{"code":1,"data":{}}', b'{"code":1,"data":{"agent":"a"}}'),
        (b'{"code":1,"data":{"n":1E400}}', b'{"code":1,"data":{"agent":"a","n":1E400}}'),
        (b'{"code":1,"data":{"agent":"x"}}', b'{"code":1,"data":{"agent":"x"}}'),
        (b'{"code":1,"data":"text"}', b'{"code":1,"data":"text"}'),
        (b'{"code":1,"data":null,"data":1}', b'{"code":1,"data":null,"data":1}'),
        (b"{}", b"{}"),
    ],
)
def test_an_error_says_whose_it_is(error: bytes, said: bytes) -> None:
    assert named(scan(b'{"jsonrpc":"2.0","id":1,"error":' + error + b"}"), "a") == b'{"jsonrpc":"2.0","id":1,"error":' + said + b"}"
