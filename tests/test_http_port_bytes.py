"""The HTTP port against a server that says any bytes: what passes unchanged, its headers, and what is no answer."""

import zlib

import pytest

from mesh.wire.jsonrpc import scan
from tests.http_peers import Asked, as_modern, asking, event, result_of

ODD = (
    b'{"n": 123456789012345678901234567890, "n":1E400, "n" : -0.0,"s":"\\ud800\\u00e9",  "deep":'
    + b"[" * 2000
    + b"]" * 2000
    + b', "u":"\xc3\xa9"}'
)
"""What a parse and a dump would change."""


@pytest.mark.parametrize("form", ["json", "events", "events in pieces", "error status"])
async def test_bytes_pass_unchanged_both_ways(form: str) -> None:
    answer = b' {"id" : "1","result":' + ODD + b',"jsonrpc":"2.0"}'
    if form == "error status":
        answer = b'{"id":"1", "error":{"code":-32602,"message":"no","data":' + ODD + b'},"jsonrpc":"2.0"}'
    notice = b'{"method":"notifications/x","params":' + ODD + b',"jsonrpc":"2.0"}'

    async def say(asked: Asked) -> None:
        if form == "json":
            asked.say(body=answer)
        elif form == "error status":
            asked.say("400 Bad Request", answer)
        elif form == "events":
            asked.stream(event(notice), event(answer))
        else:
            asked.stream()
            for byte in event(notice) + event(answer):
                asked.writer.write(bytes([byte]))
                if byte % 16 == 0:
                    await asked.writer.drain()

    async with asking(say) as (server, heard):
        sent = as_modern(more=ODD)
        heard.port.send(scan(sent))
        assert (await heard.answer("1")).raw == answer
        assert server.asked[0].body == sent
        if "events" in form:
            assert (heard.frames[0][0].raw, heard.frames[0][1]) == (notice, "1")
        assert heard.port.client.requests == 0


async def test_headers_of_both_eras() -> None:
    def say(asked: Asked) -> None:
        if asked.method == "GET":
            asked.say("405 Method Not Allowed")
        elif asked.method == "DELETE":
            asked.say("204 No Content")
        elif asked.frame.method == "initialize":
            asked.say(body=result_of(asked, '{"protocolVersion":"2025-06-18"}'), Mcp_Session_Id="s-1")
        elif asked.frame.id is None:
            asked.say("202 Accepted")
        else:
            asked.say(body=result_of(asked))

    async with asking(say, headers={"Authorization": "Bearer t", "X-Own": "1"}) as (server, heard):
        heard.ask("m", "tools/call", {"name": "ä tool", "arguments": {}}, modern=True)
        await heard.result("m")
        modern = server.asked[-1].headers
        heard.ask("v", "a\r\nX-Evil: 1", modern=True)
        await heard.result("v")
        assert "x-evil" not in server.asked[-1].headers
        await heard.handshake()
        heard.ask("1", "tools/call", {"name": "a"})
        await heard.result("1")
        handshake = server.of("tools/call")[-1].headers
        await heard.until(lambda: [each for each in server.asked if each.method == "GET"])
    assert (modern["mcp-protocol-version"], modern["mcp-method"]) == ("2026-07-28", "tools/call")
    assert modern["mcp-name"] == "=?base64?w6QgdG9vbA==?="
    assert "mcp-session-id" not in modern
    assert (handshake["mcp-protocol-version"], handshake["mcp-session-id"]) == ("2025-06-18", "s-1")
    assert "mcp-method" not in handshake
    hello = server.of("initialize")[0].headers
    assert "mcp-session-id" not in hello
    assert "mcp-protocol-version" not in hello
    for headers in (modern, handshake, hello):
        assert headers["accept"] == "application/json, text/event-stream"
        assert (headers["content-type"], headers["accept-encoding"]) == ("application/json", "identity")
        assert (headers["authorization"], headers["x-own"]) == ("Bearer t", "1")
        assert "transfer-encoding" not in headers
    last = server.asked[-1]
    assert (last.method, last.headers["mcp-session-id"], last.headers["mcp-protocol-version"]) == ("DELETE", "s-1", "2025-06-18")


MESSAGE = b'{"jsonrpc":"2.0","id":%s,"result":{}}'


@pytest.mark.parametrize(
    ("status", "body", "kind", "headers", "code", "data"),
    [
        ("200 OK", b"{oops", "application/json", {}, -32070, {"mesh": "bad_answer"}),
        ("200 OK", b"", "application/json", {}, -32070, {"mesh": "bad_answer"}),
        ("200 OK", b"[%s]" % (MESSAGE % b'"1"'), "application/json", {}, -32070, {"mesh": "bad_answer"}),
        ("200 OK", MESSAGE % b'"2"', "application/json", {}, -32070, {"mesh": "bad_answer"}),
        ("200 OK", MESSAGE % b"1", "application/json", {}, -32070, {"mesh": "bad_answer"}),
        ("200 OK", b'{"jsonrpc":"2.0","method":"x"}', "application/json", {}, -32070, {"mesh": "bad_answer"}),
        ("200 OK", b"<html>", "text/html; charset=utf-8", {}, -32070, {"mesh": "bad_answer", "content_type": "text/html"}),
        ("200 OK", b"x", "", {}, -32070, {"mesh": "bad_answer"}),
        ("200 OK", zlib.compress(MESSAGE % b'"1"'), "application/json", {"Content_Encoding": "deflate"}, -32070, {"mesh": "bad_answer"}),
        ("200 OK", b"", "text/event-stream", {}, -32070, {"mesh": "server_died"}),
        ("200 OK", event(b"{oops") + event(MESSAGE % b'"2"'), "text/event-stream", {}, -32070, {"mesh": "server_died"}),
        ("200 OK", event(b"x" * 300_000), "text/event-stream", {}, -32070, {"mesh": "bad_answer"}),
        ("202 Accepted", b"", "", {}, -32070, {"mesh": "bad_answer"}),
        ("204 No Content", b"", "", {}, -32070, {"mesh": "bad_answer"}),
        (
            "302 Found",
            b"",
            "",
            {"Location": "http://elsewhere/mcp?token=secret"},
            -32070,
            {"location": "http://elsewhere/mcp", "status": 302},
        ),
        ("400 Bad Request", b"what?", "text/plain", {}, -32603, {"mesh": "server_refused", "status": 400, "starts": "what?"}),
        ("400 Bad Request", MESSAGE % b'"1"', "application/json", {}, -32603, {"mesh": "server_refused", "status": 400}),
        ("401 Unauthorized", b"", "", {}, -32070, {"mesh": "server_refused", "status": 401}),
        ("404 Not Found", b"", "", {}, -32601, {"mesh": "server_refused", "status": 404}),
        ("429 Too Many Requests", b"", "", {"Retry_After": "7"}, -32070, {"mesh": "busy", "retry_after": 7.0, "status": 429}),
        ("503 Service Unavailable", b"", "", {"Retry_After": "soon"}, -32070, {"mesh": "busy", "retry_after": 1.0}),
        ("500 Internal Server Error", b"\xff\n" * 9000, "text/plain", {}, -32070, {"mesh": "server_refused", "status": 500}),
    ],
)
async def test_what_is_no_answer(status, body, kind, headers, code, data) -> None:
    def say(asked: Asked) -> None:
        if asked.frame.id == "1":
            asked.say(status, body, kind, **headers)
        else:
            asked.say(body=result_of(asked))

    async with asking(say) as (_, heard):
        heard.port.send(scan(as_modern()))
        error = await heard.error("1")
        assert error["code"] == code
        assert {key: error["data"].get(key) for key in data} == data
        assert error["message"].startswith("raw: ")
        heard.port.send(scan(as_modern("9")))  # the port lives on
        await heard.result("9")
        assert len(heard.frames) == 2
    assert heard.ends == []


@pytest.mark.parametrize(
    "body",
    [b'{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"x"}}', b' {"jsonrpc":"2.0","error":{"code":-32000,"message":"x"}}'],
)
@pytest.mark.parametrize("form", ["400 Bad Request", "200 OK", "events"])
async def test_an_error_without_an_id_is_the_answer(form: str, body: bytes) -> None:
    def say(asked: Asked) -> None:
        if form == "events":
            asked.stream(event(body))
        else:
            asked.say(form, body)

    async with asking(say) as (_, heard):
        heard.port.send(scan(as_modern()))
        assert (await heard.error("1")) == {"code": -32000, "message": "x"}


async def test_a_connection_that_breaks_before_and_in_the_answer() -> None:
    def say(asked: Asked) -> None:
        if asked.frame.id == "2":
            asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{")
        elif asked.frame.id == "3":
            asked.writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nid: 1")
        elif asked.frame.id == "4":
            asked.writer.write(b"SSH-2.0-OpenSSH\r\n")

    async with asking(say) as (server, heard):
        for id in "1234":
            heard.port.send(scan(as_modern(id)))
            assert (await heard.error(id))["data"]["mesh"] == "server_died"
        assert len(server.asked) == 4  # no request is sent twice
