"""What is delivered, and from where: the two things that messages, events and jobs say of themselves.

A `Family` reads what the broker hands over and is told how it ended. A `Source` finds the lanes that it comes from. Everything between the
two (`mesh.delivery.receiver`, `mesh.delivery.handling`) is the same for all.
"""

from collections.abc import Awaitable, Collection, Hashable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

from mesh.delivery.handled import Key
from mesh.link.connection import Message
from mesh.link.jetstream import Delivery

T = TypeVar("T")


class Lane(NamedTuple):
    """One durable consumer that is pulled from."""

    owner: str
    """The name for which it takes: dead letters of it are filed under that name."""
    priority: str
    """Whose share it has."""
    stream: str
    consumer: str
    subscription: str = ""
    """Where others get the same from consumers of their own (a stream that is no work queue): what this one is called."""


class Source(Protocol):
    """Which lanes there are. Asked at the start, after each reconnection, every minute, and when something comes on a notice."""

    @property
    def notices(self) -> Mapping[str, Hashable]:
        """Subjects that show that a lane is needed which may not be there yet, each with a key of the source's own. The broker shows what
        it stores to whoever listens there, so the first message of a lane is its own notice."""

    async def find(self, noticed: Collection[Hashable]) -> tuple[Collection[Lane], bool]:
        """The lanes, given the keys of the notices that came since the start; those that the broker does not have are passed over. And
        whether that is all: if not, it is asked again in two seconds. Raises MeshError: then too."""


class Family(Generic[T]):
    """How what comes becomes what a handler gets. A subclass has `read` and `key`, and of the rest what it needs.

    `done`, `failed` and `buried` run before the broker is told. What they return is awaited, if it is not None. Where one raises MeshError
    the broker is told nothing, and it comes again.
    """

    def read(self, raw: Message, delivery: Delivery, lane: Lane) -> T | None:
        """What the handler gets. None: it is not for us; it is taken away, and nobody sees it. Raises MalformedMessage, Refused (a dead
        letter `malformed`), Reject (a dead letter with its code). Whatever else it raises is a failed attempt, as of the handler."""
        raise NotImplementedError

    def key(self, item: T) -> Key:
        """What it is remembered by (`mesh.delivery.handled`): who has it to do, who sent it, and its id."""
        raise NotImplementedError

    def deadline_ns(self, item: T) -> int | None:
        """Past this nobody begins with it: it is a dead letter `expired`."""
        return None

    def attempts(self, item: T) -> int | None:
        """How often it is tried at most, where it says so itself and that is less than its lane does."""
        return None

    def trace(self, item: T) -> str:
        """W3C `traceparent`, or nothing."""
        return ""

    def done(self, item: T, result: object) -> Awaitable[None] | None:
        """Its handler returned `result`."""
        return None

    def failed(self, item: T, error: str, after: float) -> Awaitable[None] | None:
        """An attempt failed. It comes again in `after` seconds."""
        return None

    def buried(self, item: T, code: str, reason: str) -> Awaitable[None] | None:
        """It is a dead letter now."""
        return None
