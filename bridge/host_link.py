"""A host's way to the mesh, as host ports see it: `bridge.connect` leads to one agent, `bridge.gathered` to all as one."""

from typing import Protocol

from bridge.visible import Sink
from mesh.errors import MeshError
from mesh.wire.jsonrpc import Frame


class HostLink(Protocol):
    """A host's way to an agent, or to all of them as one: what stands behind a host port."""

    @property
    def over(self) -> MeshError | None:
        """Why the host's session is over, until it begins another one."""

    def receive(self, raw: bytes, to: Sink | None = None) -> None:
        """A message from the host. Frames of a request go to `to`, or else to the connection's `send` like everything else."""

    def take(self, frame: Frame, to: Sink | None = None) -> None:
        """The same for a message that was read already."""

    async def close(self) -> None:
        """The host has left."""
