"""One subscription to messages: those to our names, those on topics, broadcasts. The handler settles them, or somebody by their ids."""

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Self

from mesh.delivery import Handling, Receiver, Retry
from mesh.errors import ConfigError
from mesh.wire.message import AgentMessage


class MessageSubscription(AbstractAsyncContextManager["MessageSubscription"]):
    """`async with` it. `receiver` takes the messages to our names."""

    def __init__(self, receiver: Receiver[AgentMessage], others: Iterable[Any], all: "set[MessageSubscription]") -> None:
        self.receiver = receiver
        self._others = tuple(others)
        """Subscriptions to events, whose handlers are ours too."""
        self._all = all
        """Those that are open: where `acknowledge_message` looks."""
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for each in (self.receiver, *self._others):
                await stack.enter_async_context(each)
            self._all.add(self)
            stack.callback(self._all.discard, self)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def handlings(self) -> list[Handling[Any]]:
        return [each.handling for each in (self.receiver, *self._others) if isinstance(each, Receiver)]


def settle(subscriptions: Iterable[MessageSubscription], message: AgentMessage | str, result: Any, error: Retry | None) -> bool:
    """Whether it was in our hands. Raises ConfigError for an id that two senders have chosen."""
    id = message if isinstance(message, str) else message.id
    held = [(handling, key) for each in subscriptions for handling in each.handlings for key in handling.running if key[2] == id]
    if isinstance(message, AgentMessage) and len(held) > 1:
        held = [(handling, key) for handling, key in held if key == message.key]
    if len(held) > 1:
        raise ConfigError(f"{len(held)} messages with the id {id!r} are in hand", hint="give the message itself")
    return any(handling.settle(key, result, error) for handling, key in held)
