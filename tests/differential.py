"""Direct against through the mesh: the same generated exchanges with the same server over its own pipe, and through `mesh-bridge connect`,
the broker and `mesh-bridge serve`. Every line that the host receives must be the same bytes.

Requests go out a few at once. What is heard without being asked (a notification, a cancellation) is told by the server in its next
response, so each stands between two requests. A body that goes in chunks is alone: the order of one exchange is kept, and small messages
of others may overtake it. `scripts/differential` is this module's command.
"""

import argparse
import asyncio
import random
import re
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mesh import clock
from tests.conftest import Broker
from tests.generated import HANDSHAKE, MODERN, Ask, exchange, notification
from tests.helpers import Background, control_plane
from tests.processes import ROOT, bridges

DIRECT: Final = [sys.executable, "-m", "tests.servers.differ"]
AT_ONCE: Final = 8
SECONDS: Final = 20.0
"""For a few exchanges. When they are over, what is not there is a difference."""

SHOWN: Final = 5
"""Differences that are printed in full."""

ERAS: Final = {HANDSHAKE: "handshake", MODERN: "modern"}

_final = re.compile(rb'"x-final":"([^"]+)"').search
_held = re.compile(rb'"x-held":"([^"]+)"').search
_asked = re.compile(rb'"x-ask":"(([hm]\d+\+?)\.(\d+))"').search


@dataclass(frozen=True)
class Step:
    """Keys of exchanges that are open at once, and what the host says before them."""

    notes: tuple[str, ...]
    keys: tuple[str, ...]


@dataclass
class Report:
    exchanges: int = 0
    lines: int = 0
    bytes: int = 0
    differences: list[str] = field(default_factory=list)


def steps(era: str, count: int, seed: int) -> Iterator[Step]:
    """`count` exchanges of one era."""
    rng = random.Random(f"steps {era} {seed}")
    number, end = seed * 1_000_000 + 1, seed * 1_000_000 + 1 + count
    while number < end:
        if rng.random() < 0.1 and number + 1 < end:
            yield Step((), (f"{era}{number}!",))
            number += 1
        size = min(end - number, rng.choice((1, 1, 2, AT_ONCE)))
        notes = tuple(f"{era}{number}.{at}" for at in range(rng.choice((0, 0, 0, 1, 3))))
        large = "+" if size == 1 and rng.random() < 0.01 else ""
        yield Step(notes, tuple(f"{era}{each}{large}" for each in range(number, number + size)))
        number += size


class Peer:
    """A process that is a server for us: the server itself, or the mesh's end at the host."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout

    async def hear(self) -> bytes:
        return await self._out.readline()

    async def begin(self, era: str) -> bytes:
        """What a host says first, and the answer to it."""
        if era == HANDSHAKE:
            self._in.write(b'{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{}}}\n')
            line = await self.hear()
            self._in.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        else:
            meta = b'{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}'
            self._in.write(b'{"jsonrpc":"2.0","id":0,"method":"server/discover","params":{"_meta":' + meta + b"}}\n")
            line = await self.hear()
        return line

    async def take(self, step: Step) -> list[bytes]:
        """One step, and every line that came in it. Ends with `b""` where something is missing."""
        known = {key: exchange(key) for key in step.keys}
        for note in step.notes:
            self._in.write(notification(note) + b"\n")
        for each in known.values():
            self._in.write(each.request.fill(id=each.id, token=each.token or b"") + b"\n")
        open, heard = set(known), []
        try:
            async with asyncio.timeout(SECONDS):
                while open:
                    line = await self.hear()
                    heard.append(line)
                    if not line:
                        break
                    if (found := _final(line)) is not None:
                        open.discard(found.group(1).decode())
                    elif (found := _asked(line)) is not None:
                        said = known[found.group(2).decode()].script[int(found.group(3))]
                        assert isinstance(said, Ask)
                        self._in.write(said.answer + b"\n")
                    elif (found := _held(line)) is not None:
                        each = known[found.group(1).decode()]
                        self._in.write(each.cancelled.fill(id=each.id) + b"\n")
                        open.discard(each.key)
        except TimeoutError:
            heard.append(b"")
        return heard


@asynccontextmanager
async def peer(*command: str) -> AsyncIterator[Peer]:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.DEVNULL, cwd=ROOT, limit=1 << 26
    )
    try:
        yield Peer(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def compare(broker_url: str, agent: str, era: str, count: int, seed: int) -> Report:
    """`count` exchanges of one era both ways. Stops where one side says no more."""
    report = Report()
    connect = [sys.executable, "-m", "bridge", "connect", agent, "--broker", broker_url]
    async with peer(*DIRECT) as direct, peer(*connect) as through:
        _note(report, "the first answer", *await asyncio.gather(direct.begin(era), through.begin(era)))
        for step in steps(era, count, seed):
            wanted, got = await asyncio.gather(direct.take(step), through.take(step))
            report.exchanges += len(step.keys)
            for at in range(max(len(wanted), len(got))):
                _note(report, " ".join(step.keys), *(lines[at] if at < len(lines) else b"" for lines in (wanted, got)))
            if b"" in (*wanted, *got):
                break
    return report


def _note(report: Report, what: str, wanted: bytes, got: bytes) -> None:
    report.lines += 1
    report.bytes += len(got)
    if wanted != got:
        at = next((at for at, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got)))
        around = slice(max(0, at - 60), at + 140)
        report.differences.append(f"{what}, at byte {at}:\n  direct {wanted[around]!r}\n  mesh   {got[around]!r}")


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 no difference, 1 some, 2 wrong usage."""
    parser = argparse.ArgumentParser(prog="scripts/differential", description="Generated exchanges, direct against through the mesh.")
    parser.add_argument("--exchanges", type=int, default=1_000, metavar="N", help="how many, half of them in each era (default: 1000)")
    parser.add_argument("--seed", type=int, default=1, help="another seed: other exchanges (default: 1)")
    options = parser.parse_args(argv)
    differences = 0
    with ExitStack() as stack:
        broker = Broker(Path(stack.enter_context(tempfile.TemporaryDirectory())) / ".mesh")
        stack.callback(broker.close)
        broker.start()
        stack.enter_context(Background(lambda: control_plane(broker.url)))
        stack.enter_context(bridges(broker.url, ("differ", "differ")))
        for era, count in ((HANDSHAKE, options.exchanges // 2), (MODERN, options.exchanges - options.exchanges // 2)):
            begun = clock.monotonic()
            report = asyncio.run(compare(broker.url, "differ", era, count, options.seed))
            taken = clock.monotonic() - begun
            what = f"{report.exchanges} of {count} exchanges, {report.lines} lines, {report.bytes} bytes, {taken:.0f} s"
            _say(f"{ERAS[era]} era: {what}, differences: {len(report.differences) or 'none'}")
            for each in report.differences[:SHOWN]:
                _say(each)
            differences += len(report.differences) + (report.exchanges < count)
    return 1 if differences else 0


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
