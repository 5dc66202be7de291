"""What a tool of the mesh's own is, and its definition as `tools/list` has it. `bridge.mesh_tools.tools` is the table of them."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from bridge.mesh_tools.doing import Doing
from mesh.wire.jsonrpc import dumps


@dataclass(frozen=True)
class Tool:
    name: str
    title: str
    description: str
    takes: type[BaseModel]
    gives: type[BaseModel]
    run: Callable[[Doing, Any], Awaitable[Mapping[str, Any]]]
    when: Callable[[Doing], bool]
    reads: bool = False
    """It changes nothing."""
    again: bool = False
    """Done twice is as done once."""
    destroys: bool = False
    world: bool = False
    """It reaches others."""

    @cached_property
    def raw(self) -> bytes:
        """Its definition, as `tools/list` has it."""
        hints: dict[str, Any] = {"readOnlyHint": self.reads, "openWorldHint": self.world}
        if not self.reads:
            hints |= {"destructiveHint": self.destroys, "idempotentHint": self.again}
        return dumps(
            {
                "name": self.name,
                "title": self.title,
                "description": self.description,
                "inputSchema": _schema(self.takes, "validation"),
                "outputSchema": _schema(self.gives, "serialization"),
                "annotations": hints,
            }
        )


def _schema(model: type[BaseModel], mode: Any) -> dict[str, Any]:
    schema = model.model_json_schema(mode=mode)
    schema.pop("description", None)  # the model's docstring is for us
    return schema
