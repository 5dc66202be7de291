"""URIs of an aggregate: which agent a resource belongs to. Pure.

A URI is not only a name: it stands in results, in links and in what a model has read. So a resource keeps its own URI as long as one agent
offers it. Where several do (or where a URI begins with our own scheme), each is offered as `mesh://{agent}/{uri}`: the agent
percent-encoded, then the agent's own URI, character for character, so that a template stays a template. The long form may be used for any
resource at any time, offered or not. A short form that has become ambiguous is refused with the long forms, never guessed: whoever comes
to the mesh with somebody's URI must not get his readers.

Source: RFC 3986 section 3.3 (a path may hold colons and empty segments); RFC 6570 (templates).
"""

import re
from typing import Final
from urllib.parse import quote, unquote

SCHEME: Final = "mesh://"

_expression: Final = re.compile(r"\{([+#./;?&]?)[^{}]*\}")
_scheme: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):").match


def qualify(agent: str, uri: str) -> str:
    """The long form, which names the agent."""
    return f"{SCHEME}{quote(agent, safe='', errors='surrogatepass')}/{uri}"


def split(uri: str) -> tuple[str, str] | None:
    """Agent and own URI of a long form; None for any other URI."""
    if not uri.startswith(SCHEME):
        return None
    agent, slash, own = uri[len(SCHEME) :].partition("/")
    return (unquote(agent, errors="surrogatepass"), own) if slash and agent else None


def scheme(uri: str) -> str:
    """The scheme in small letters; empty where there is none."""
    found = _scheme(uri)
    return found[1].lower() if found else ""


def matches(template: str, uri: str) -> bool:
    """Whether `uri` may be made from `template`. Linear in both, since templates come from others: a variable takes as little as it can.

    `{x}` takes no slash; `{+x}`, `{#x}`, `{/x}`, `{.x}`, `{;x}`, `{?x}` and `{&x}` take anything.
    """
    pieces = _expression.split(template)  # literal, operator, literal, operator, … literal
    if len(pieces) == 1:
        return template == uri
    first, last = pieces[0], pieces[-1]
    if not uri.startswith(first) or not uri.endswith(last) or len(uri) < len(first) + len(last):
        return False
    at, end = len(first), len(uri) - len(last)
    for operator, literal in zip(pieces[1:-2:2], pieces[2:-1:2], strict=True):
        found = uri.find(literal, at, end)
        if found < 0 or (not operator and "/" in uri[at:found]):
            return False
        at = found + len(literal)
    return bool(pieces[-2]) or "/" not in uri[at:end]
