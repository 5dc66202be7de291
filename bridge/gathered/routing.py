"""Whose a request of the aggregate is, and the request as its agent is to get it. Pure.

The bytes stay the host's: the agent's own name (or URI) is spliced into the place of the aggregate's, nothing else is touched. A name that
nobody has, or that several may have, is refused with what is known of it.

Source: MCP server/tools, server/prompts, server/resources, server/utilities/completion.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bridge.gathered import answers, find, names, uris
from bridge.gathered.answers import id_of
from bridge.gathered.catalog import PROMPTS, TOOLS, Catalog
from bridge.gathered.names import Pair
from mesh.errors import MalformedMessage, MeshError
from mesh.rpc import error_of
from mesh.wire import control
from mesh.wire.jsonrpc import Frame, Span, dumps, locate, scan

Denial = Callable[[str, str, str], MeshError | None]
"""Why an agent's method may not be called with a name; None where it may."""


@dataclass(frozen=True, slots=True)
class Routed:
    """A request for `agent`, which calls `own` what the host calls `name`."""

    agent: str
    own: str
    name: str
    frame: Frame


def route(frame: Frame, catalog: Catalog, *, only_find: bool, denial: Denial = lambda *_: None) -> Routed | bytes:
    """The request for its agent, or the refusal. Raises MalformedMessage where params are not what the method takes.

    Who asks for an agent that is not in the catalogue, and may not call it either, is told by `denial` that it may not, and never whether
    there is such an agent.
    """
    method, name = frame.method or "", frame.name or ""
    to = partial(_to, frame, catalog, denial)
    if method == "tools/call" and only_find and name == find.CALL_TOOL:
        name, edits = _called(frame)
        return to("tool", name, catalog.find(TOOLS, name), edits)
    if method in ("tools/call", "prompts/get"):
        kind, what = (TOOLS, "tool") if method == "tools/call" else (PROMPTS, "prompt")
        return to(what, name, catalog.find(kind, name), [_place(frame, "params", "name")])
    if method in ("resources/read", "resources/subscribe", "resources/unsubscribe"):
        return to("resource", name, one_of(frame, name, catalog.find_uri(name)), [_place(frame, "params", "uri")])
    if method == "completion/complete":
        return _completed(frame, catalog, to)
    return answers.refusal(frame, control.METHOD_NOT_FOUND, f"Method not found: {method} names no agent that it could be for")


def one_of(frame: Frame, name: str, pairs: tuple[Pair, ...]) -> Pair | bytes | None:
    """The one pair; a refusal that names the long forms where there are several."""
    if len(pairs) < 2:
        return pairs[0] if pairs else None
    agents = {agent: uris.qualify(agent, own) for agent, own in pairs}
    said = f"Several agents may have {name}: use one of {', '.join(agents.values())}"
    return answers.refusal(frame, control.INVALID_PARAMS, said, mesh="ambiguous", agents=agents)


def _to(
    frame: Frame,
    catalog: Catalog,
    denial: Denial,
    what: str,
    name: str,
    pair: Pair | bytes | None,
    edits: list[tuple[Span, bytes | None]],
) -> Routed | bytes:
    if isinstance(pair, bytes):
        return pair
    if pair is None:
        meant = uris.split(name) if what == "resource" else names.read(name)
        problem = denial(meant[0], frame.method or "", meant[1]) if meant is not None else None
        return answers.not_found(frame, what, name, catalog.offers) if problem is None else error_of(id_of(frame), problem)
    agent, own = pair
    if own == name and len(edits) == 1:
        return Routed(agent, own, name, frame)
    return Routed(agent, own, name, scan(frame.splice([(span, dumps(own) if new is None else new) for span, new in edits])))


def _place(frame: Frame, *path: str) -> tuple[Span, None]:
    """The place of the name, which the agent's own is to take."""
    span = locate(frame.raw, *path)
    if span is None:
        raise MalformedMessage(f"{frame.method} lacks {'.'.join(path)}")
    return span, None


def _called(frame: Frame) -> tuple[str, list[tuple[Span, bytes | None]]]:
    """The tool that a `call_tool` calls, and the edits that make it a call of that tool."""
    whole = locate(frame.raw, "params", "arguments")
    named = locate(frame.raw, "params", "arguments", "agent_tool")
    inner = locate(frame.raw, "params", "arguments", "arguments")
    name = json.loads(frame.raw[slice(*named)]) if named is not None else None
    if not isinstance(name, str) or whole is None:
        raise MalformedMessage(f"{find.CALL_TOOL} takes agent_tool (a string) and arguments (an object)")
    given = frame.raw[slice(*inner)] if inner is not None else b"{}"
    return name, [_place(frame, "params", "name"), (whole, given)]


def _completed(frame: Frame, catalog: Catalog, to: Callable[..., Routed | bytes]) -> Routed | bytes:
    """A completion is its prompt's or its template's."""
    said = answers.read_params(frame.raw).get("ref")
    ref: dict[str, Any] = said if isinstance(said, dict) else {}
    if isinstance(name := ref.get("name"), str) and ref.get("type") == "ref/prompt":
        return to("prompt", name, catalog.find(PROMPTS, name), [_place(frame, "params", "ref", "name")])
    if isinstance(name := ref.get("uri"), str) and ref.get("type") == "ref/resource":
        pair = one_of(frame, name, catalog.find_template(name))
        return to("resource", name, pair, [_place(frame, "params", "ref", "uri")])
    raise MalformedMessage("completion/complete takes a ref to a prompt (name) or to a resource (uri)")
