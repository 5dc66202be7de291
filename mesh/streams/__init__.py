"""Streams between two agents: both ways, in order, with credits. The protocol is in docs/binding.md, its theory in
mesh/policy/stream_flow.py."""

from mesh.streams.door import Streams
from mesh.streams.durable import DurableStream
from mesh.streams.flows import Flows
from mesh.streams.serving import StreamHandler
from mesh.streams.stream import Stream

__all__ = ["DurableStream", "Flows", "Stream", "StreamHandler", "Streams"]
