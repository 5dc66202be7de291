"""A topic's schema: one version as its bucket holds it, what is asked of the control plane, and how an event names its version."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote, unquote

from pydantic import Field

from mesh.wire.entries import Wire

_PREFIX: Final = "mesh://schemas/"
_uri: Final = re.compile(re.escape(_PREFIX) + r"([^/]+)/([1-9]\d{0,5})").fullmatch


class SchemaEntry(Wire):
    """One version of a topic's schema. The bucket `schemas` has it under `{topic…}.{version}`; only the control plane writes there."""

    topic: str
    version: Annotated[int, Field(ge=1)]
    document: dict[str, Any]
    """The schema itself, JSON Schema 2020-12."""
    rule: str = "backward"
    """The topic's compatibility rule, from this version on."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """What members of the data get that an event of the version before lacks."""
    convert: str = ""
    """CEL over `data`: the data of the version before, made into data of this one. It comes before the defaults."""
    owner: str = ""
    """Who registered the topic's first version."""
    by: str = ""
    at_ns: int = 0


class SchemaQuestion(Wire):
    """The params of `mesh/schema`. `check` answers as `register` would, and stores nothing; `delete` removes all versions of a topic."""

    do: Literal["register", "check", "list", "get", "delete"]
    topic: str = ""
    version: Annotated[int, Field(ge=1, lt=10**6)] | None = None
    """Of `get`; default: the newest."""
    document: dict[str, Any] | None = None
    rule: Literal["none", "backward", "forward", "full", "backward_transitive", "forward_transitive", "full_transitive"] | None = None
    """Default: the topic's, and `backward` for a new one."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    convert: str = ""


def schema_uri(topic: str, version: int) -> str:
    """What an event says as `dataschema`: `mesh://schemas/build.done/3`."""
    return f"{_PREFIX}{quote(topic, safe='', errors='surrogatepass')}/{version}"


def version_of(attributes: Mapping[str, Any], topic: str) -> int | None:
    """Which version of the topic's schema an event says that it has; None where it names none of this topic."""
    said = attributes.get("dataschema")
    found = _uri(said) if isinstance(said, str) else None
    return int(found[2]) if found is not None and unquote(found[1], errors="surrogatepass") == topic else None
