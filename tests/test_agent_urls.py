"""How an agent's entry says what its URL speaks: in mesh.toml, in a host's JSON, and to the factory of ports."""

import json
from pathlib import Path
from typing import Any

import pytest

from bridge.app import make_spec, port_factory
from bridge.config import read_file
from bridge.ports.http import HttpPort
from bridge.ports.sse_port import SsePort
from bridge.ports.ws import WebSocketPort
from mesh.errors import ConfigError

ENTRIES = [
    ({"url": "http://x/mcp"}, "http", HttpPort),
    ({"url": "https://x/mcp", "transport": "http"}, "http", HttpPort),
    ({"url": "http://x/sse", "transport": "sse"}, "sse", SsePort),
    ({"url": "ws://x/"}, "ws", WebSocketPort),
    ({"url": "wss://x/", "transport": "ws"}, "ws", WebSocketPort),
]


@pytest.mark.parametrize(("entry", "speaks", "port"), ENTRIES)
async def test_a_url_and_its_port(entry: dict[str, Any], speaks: str, port: type, tmp_path: Path) -> None:
    spec = make_spec(name="a", **entry)
    assert spec.speaks == speaks
    async with port_factory(spec) as make_port:
        assert isinstance(make_port(), port)
    (tmp_path / "mesh.toml").write_text("[agents.a]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in entry.items()))
    of_host = {{"transport": "type"}.get(key, key): value for key, value in entry.items()}
    (tmp_path / "hosts.json").write_text(json.dumps({"mcpServers": {"a": of_host}}))
    assert read_file(tmp_path / "mesh.toml").agents == read_file(tmp_path / "hosts.json").agents == (spec,)


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"url": "ftp://x/"}, "ws:// or wss://"),
        ({"url": "ws://x/", "transport": "sse"}, "does not go with"),
        ({"url": "http://x/", "transport": "ws"}, "does not go with"),
        ({"command": "x", "transport": "sse"}, "there is none"),
        ({"url": "http://x/", "transport": "pigeon"}, "sse"),
    ],
)
def test_what_cannot_be_meant(entry: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        make_spec(name="a", **entry)


def test_types_that_hosts_write(tmp_path: Path) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(
        json.dumps({"mcpServers": {"a": {"url": "http://x/", "type": "streamable-http"}, "b": {"command": "x", "type": "stdio"}}})
    )
    assert [agent.transport for agent in read_file(path).agents] == ["http", ""]
    path.write_text(json.dumps({"mcpServers": {"a": {"url": "http://x/", "type": "pigeon"}}}))
    with pytest.raises(ConfigError, match=r"mcpServers\.a: a url of type 'pigeon'"):
        read_file(path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('[agents.a]\ncomand = "x"', r"agent 'a': there is no 'comand'; did you mean 'command'\?"),
        ('[agents.a]\ncommand = "x"\nurl = "http://x/"', "agent 'a': an agent has exactly one of"),
        ('[agents.a]\ncommand = "x"\ntools.now.jurnal = "none"', r"agent 'a': there is no 'tools\.now\.jurnal'"),
        ('[agent.a]\ncommand = "x"', "there is no 'agent'; did you mean 'agents'"),
        ("[http]\nprot = 1", r"there is no 'http\.prot'"),
    ],
)
def test_a_typo_is_named(text: str, why: str, tmp_path: Path) -> None:
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=why) as raised:
        read_file(path)
    assert raised.value.hint
