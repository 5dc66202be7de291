"""`scripts/bench`: measure, print the table, keep the figures as JSON."""

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import structlog
import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench.peers import Peer, install
from bench.rows import ROWS
from bench.stage import RESULTS, BenchError
from bench.table import Outcome, Pace, Row, machine, render
from mesh import MeshError
from mesh.clock import iso, wall_ns

FULL: Final = Pace(rounds=20, seconds=0.5, journal_calls=100_000, memory_calls=20_000, exchanges=10_000, crowd=1_000)
QUICK: Final = Pace(rounds=2, seconds=0.1, journal_calls=2_000, memory_calls=500, exchanges=100, crowd=20)

EXAMPLES: Final = """examples:
  scripts/bench --peers                             all figures, some ten minutes; the first time it installs what it compares with
  scripts/bench --only call-p50 call-rate --rounds 30
  scripts/bench --quick                             whether it works; the figures mean nothing
  scripts/bench --only journal-whole --calls 1000000 --json big.json

rows:
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all met (or --quick), 1 a row missed its figure or could not be measured, 2 wrong usage, 130 after Ctrl-C."""
    options = _parser().parse_args(argv)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
    pace = QUICK if options.quick else FULL
    pace = replace(pace, rounds=options.rounds or pace.rounds, journal_calls=options.calls or pace.journal_calls)
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    try:
        return uvloop.run(_main(rows, pace, options))
    except asyncio.CancelledError:
        return 130


async def _main(rows: Sequence[Row], pace: Pace, options: argparse.Namespace) -> int:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)  # every process is ended on the way out
    on = await machine()
    begun = wall_ns()
    if options.peers or options.only:
        await _install({row.peer for row in rows if row.peer is not None})
    outcomes = await measure(rows, pace)
    title = f"{pace.rounds} rounds of {pace.seconds:g} s a side" + (", too short to mean anything" if options.quick else "")
    Console(width=None if sys.stdout.isatty() else 200).print(render(outcomes, title))
    path = options.json or _default_path()
    said = {"at": iso(begun), "quick": options.quick, "pace": asdict(pace), "machine": on, "rows": [each.as_dict() for each in outcomes]}
    path.write_text(json.dumps(said, indent=2) + "\n")
    print(f"figures: {path}")
    failed = any(outcome.measured is None for outcome in outcomes)
    return int(failed or not (options.quick or all(outcome.met for outcome in outcomes)))


async def _install(peers: Collection[Peer]) -> None:
    """What the rows need. One that cannot be had is missed by its rows, which say so."""
    for peer in peers:
        try:
            await install(peer)
        except BenchError as problem:
            print(f"{peer.package} cannot be installed: {problem}", file=sys.stderr)


async def measure(rows: Sequence[Row], pace: Pace) -> list[Outcome]:
    """One row after the other. One that fails does not keep the others from being measured."""
    outcomes = []
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("round {task.completed}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        for row in rows:
            shown = progress.add_task(f"{row.name}: {row.what}", total=None)
            try:
                outcomes.append(Outcome(row, await row.measure(pace, lambda: progress.advance(shown))))  # noqa: B023 - called at once
            except (BenchError, MeshError, TimeoutError) as problem:
                outcomes.append(Outcome(row, None, str(problem) or type(problem).__name__))
            progress.remove_task(shown)
    return outcomes


def _parser() -> argparse.ArgumentParser:
    rows = "".join(f"  {row.name:<18}{row.what}: {row.compare} {row.wanted:g} {row.unit}\n" for row in ROWS)
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures what the mesh costs, against doing without it, side by side in one run.",
        epilog=EXAMPLES + rows,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", choices=[row.name for row in ROWS], help="measure these rows only")
    parser.add_argument("--peers", action="store_true", help="install what rows compare with, which --only does too: into .bench/peers")
    parser.add_argument("--rounds", type=_positive, help=f"rounds of each comparison (default: {FULL.rounds})")
    parser.add_argument("--calls", type=_positive, help=f"calls of journal-whole (default: {FULL.journal_calls:,})")
    parser.add_argument("--quick", action="store_true", help="rounds so short that the figures mean nothing: does it work?")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the figures go (default: a new file in .bench/)")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(text)
    return number


def _default_path() -> Path:
    """A file of its own for each run, in a directory that git leaves alone."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / ".gitignore").write_text("*\n")
    return RESULTS / f"{iso(wall_ns())[:19].replace(':', '')}.json"


if __name__ == "__main__":
    sys.exit(main())
