"""How full the mailboxes are of those whom we send to: over all senders and priorities, so that one who is sent too much is spared.

Theory of operation
-------------------
The broker holds each sender to its share (`mailbox_full`). It does not hold all of them together to anything, and lets no sender see what
others send. So the control plane is asked (`mesh/mailbox`), beside the sending: at the first message to a name, once in `EVERY` of them,
and every `LOOK` seconds while more than `MOST` messages wait there; about all names together `MOST_LOOKS`. Until fewer wait, messages to
that name go out `RATE` times a second, or are refused, as their sender wishes (`over`). The answer is as old as that, and where no control
plane answers nobody is slowed: the bound is advice, and the share is not.

The first answer also tells whether a name is known at all. What is sent to nobody waits, and may be misspelt: it is logged once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any, Final, Literal, NamedTuple

import structlog

from mesh.background import Background
from mesh.clock import monotonic
from mesh.errors import MailboxFull, MeshError, NoSuchAgent
from mesh.jobs import JobRecord, Jobs
from mesh.policy.rate import Limiter, Rate

MOST: Final = 100_000
"""Messages that wait for one name, in all: ten shares."""

EVERY: Final = 256
LOOK: Final = 0.5

MOST_LOOKS: Final = Rate(100, 60.0)
"""Questions of one sender, about all names: the control plane answers so many of all kinds and no more, and others matter more."""

RATE: Final = 100.0
"""Messages a second from one sender to a name whose mailbox is over `MOST`."""

MOST_NAMES: Final = 1000
"""Names that one sender keeps in mind."""

BEGINS: Final = 1.0
"""Seconds within which a worker that is there begins with a job."""

Over = Literal["slow", "refuse", "ignore"]

_log: Final = structlog.get_logger("mesh.broker")


class Mailbox(NamedTuple):
    """What waits for a name, by priority, in the hands of receivers too. `listened`: whether anybody ever listened under it."""

    lanes: Mapping[str, int]
    listened: bool

    @property
    def waiting(self) -> int:
        return sum(self.lanes.values())


async def nobody_at(name: str, look: Callable[[str], Awaitable[Mailbox]], target: Callable[[str], Awaitable[object]]) -> NoSuchAgent | None:
    """What is known of a name that nobody has, and under which nobody ever listened: it may be misspelt, and the hint says what may be
    meant. None where somebody has it or had, or we may not know. `look` and `target` as `Mailboxes` takes them."""
    with suppress(MeshError):  # it may be known all the same
        if (await look(name)).listened:
            return None
    return await _absent(name, target)


async def nobody_takes(
    job: JobRecord, jobs: Jobs, look: Callable[[str], Awaitable[Mailbox]], target: Callable[[str], Awaitable[object]]
) -> NoSuchAgent | None:
    """As `nobody_at`, of who is to do a job that was just submitted. Of who only does jobs nothing else is known but that it begins."""
    nobody = await nobody_at(job.target, look, target)
    if nobody is not None:
        with suppress(MeshError, TimeoutError):
            async with asyncio.timeout(BEGINS), aclosing(jobs.watch(job.id)) as seen:
                async for each in seen:
                    if each.state != "queued":
                        return None
    return nobody


async def _absent(name: str, target: Callable[[str], Awaitable[object]]) -> NoSuchAgent | None:
    try:
        await target(name)
    except NoSuchAgent as nobody:
        return nobody
    except MeshError:
        pass  # we may not know
    return None


class _Known:
    """What is known of one name."""

    __slots__ = ("looked", "looking", "mailbox", "turn", "until_look")

    def __init__(self) -> None:
        self.mailbox: Mailbox | None = None
        self.until_look = 0
        """Messages."""
        self.looked = 0.0
        self.looking = False
        self.turn = asyncio.Lock()
        """Of who waits to send; who gives up leaves its place to the next."""

    @property
    def over(self) -> bool:
        return self.mailbox is not None and self.mailbox.waiting > MOST


class Mailboxes:
    """Those that one participant sends to. `target` raises NoSuchAgent where nobody has a name."""

    def __init__(self, look: Callable[[str], Awaitable[Mailbox]], target: Callable[[str], Awaitable[Any]], background: Background) -> None:
        self._look_at = look
        self._target = target
        self._background = background
        self._known: dict[str, _Known] = {}
        self._looks: Limiter[None] = Limiter(MOST_LOOKS)

    def sending(self, to: str, over: Over) -> Awaitable[None] | None:
        """Before each message. None, or what is to be awaited first. Raises MailboxFull."""
        if over == "ignore":
            return None
        known = self._known.get(to)
        if known is None:
            known = self._known[to] = _Known()
            if len(self._known) > MOST_NAMES:
                del self._known[next(iter(self._known))]
        known.until_look -= 1
        if known.until_look < 0:
            self._look(to, known)
        if not known.over:
            return None
        self._look_again(to, known)
        if over == "slow":
            return self._take_turn(to, known)
        assert known.mailbox is not None
        raise MailboxFull(
            f"{known.mailbox.waiting:,} messages wait for {to!r}, from all its senders",
            hint="send it again later; `mesh listen` and the agents that answer to the name make room",
            limit=MOST,
            waiting=known.mailbox.waiting,
        )

    async def _take_turn(self, to: str, known: _Known) -> None:
        async with known.turn:
            due = monotonic() + 1 / RATE
            while known.over and (left := due - monotonic()) > 0:
                await asyncio.sleep(min(left, LOOK))
                self._look_again(to, known)

    def _look_again(self, to: str, known: _Known) -> None:
        if monotonic() - known.looked > LOOK:
            self._look(to, known)

    def _look(self, to: str, known: _Known) -> None:
        if not known.looking and not self._looks.take(None, monotonic()):
            known.looking = True
            known.until_look = EVERY
            self._background.start(self._learn(to, known), f"mailbox of {to}")

    async def _learn(self, to: str, known: _Known) -> None:
        first, was_over = known.mailbox is None, known.over
        try:
            known.mailbox = mailbox = await self._look_at(to)
        except MeshError:  # nobody is slowed by what nobody knows
            known.mailbox = Mailbox({}, True)
            return
        finally:
            known.looked, known.looking = monotonic(), False
        if known.over and not was_over:
            _log.warning("a mailbox is over its bound; what is sent there is slowed", to=to, waiting=mailbox.waiting, bound=MOST)
        if first and not mailbox.listened and (nobody := await _absent(to, self._target)) is not None:
            _log.warning("nobody has this name, or ever listened under it; what is sent to it waits", to=to, hint=nobody.hint)
