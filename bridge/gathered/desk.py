"""What the aggregate answers without asking anybody: who it is, its lists, and the search in them."""

from typing import Final

from bridge.gathered import answers, find
from bridge.gathered.answers import read_params
from bridge.gathered.catalog import PROMPTS, RESOURCES, TEMPLATES, TOOLS, BadCursor
from bridge.gathered.own import listed
from bridge.gathered.roster import Roster
from mesh.wire import control
from mesh.wire.jsonrpc import Frame

LISTS: Final = {"tools/list": TOOLS, "prompts/list": PROMPTS, "resources/list": RESOURCES, "resources/templates/list": TEMPLATES}

HANDSHAKE_ONLY: Final = frozenset({"ping", "logging/setLevel", "resources/subscribe", "resources/unsubscribe"})

ONLY_FIND: Final = f"\nOnly {find.FIND_TOOLS} and {find.CALL_TOOL} are listed here: search first, then call what was found."


def answer(frame: Frame, roster: Roster, *, only_find: bool, tasks: bool = False) -> bytes | None:
    """The answer to a request, or None: it is an agent's. `tasks`: it comes in a session that has tasks."""
    method, catalog = frame.method or "", roster.catalog
    if frame.era is not None and method in HANDSHAKE_ONLY:
        return answers.refusal(frame, control.METHOD_NOT_FOUND, "Method not found")
    if method in LISTS:
        return _list(frame, roster, LISTS[method], only_find=only_find, tasks=tasks and frame.era is None and method == "tools/list")
    if method == "initialize":
        wanted = read_params(frame.raw).get("protocolVersion")
        return answers.initialized(frame, wanted, catalog.instructions + (ONLY_FIND if only_find else ""))
    if method == "server/discover":
        return answers.discovered(frame, catalog.instructions + (ONLY_FIND if only_find else ""))
    if method == "ping":
        return answers.result(frame, {})
    if method == "tools/call" and frame.name == find.FIND_TOOLS:
        arguments = read_params(frame.raw).get("arguments")
        return answers.result(frame, find.answer(roster.index, arguments if isinstance(arguments, dict) else {}))
    return None


def _list(frame: Frame, roster: Roster, kind: str, *, only_find: bool, tasks: bool) -> bytes:
    if kind == TOOLS and only_find:
        return answers.page(frame, kind, b"[" + (find.BOTH_TASKED if tasks else find.BOTH_RAW) + b"]", None)
    cursor = read_params(frame.raw).get("cursor")
    try:
        body, after = roster.catalog[kind].page(cursor if cursor is None else str(cursor), tasks=tasks)
    except BadCursor as problem:
        return answers.refusal(frame, control.INVALID_PARAMS, f"Invalid cursor: {problem}")
    if cursor is None:
        ours = [*([find.FIND_RAW] if kind == TOOLS else []), *listed(roster.tools, kind)]
        body = b"[" + b",".join([*ours, *([body[1:-1]] if body != b"[]" else [])]) + b"]"
    return answers.page(frame, kind, body, after)
