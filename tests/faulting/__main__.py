"""`scripts/faults`: kills, pauses and cut connections, and then a look at what was promised."""

import argparse
import asyncio
import json
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Final

from mesh.cli import logging
from tests.faulting.plan import WHAT, Fault, plan
from tests.faulting.run import SETTLED, Report, run
from tests.faulting.world import WorldError

EXAMPLES: Final = """examples:
  scripts/faults                                   two minutes of faults, then a minute to settle
  scripts/faults --faults 200 --what kill          so many kills
  scripts/faults --seconds 12 --settle 10 --seed 7 a short run, as among the tests
"""


def main() -> int:
    """Exit codes: 0 nothing found, 1 something was, 2 wrong usage or no start, 130 after Ctrl-C."""
    asked = _parser().parse_args()
    logging.configure(stderr=None)
    if asked.seconds is None:
        asked.seconds = 120.0 if asked.faults is None else float("inf")
    directory = asked.keep or Path(tempfile.mkdtemp(prefix="mesh-faults-"))
    directory.mkdir(parents=True, exist_ok=True)

    def tell(fault: Fault) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"{fault}\n")

    faults = plan(asked.seed, tuple(asked.what))
    try:
        most = sys.maxsize if asked.faults is None else asked.faults
        report = asyncio.run(run(directory, faults, seconds=asked.seconds, most=most, settle=asked.settle, on_fault=tell))
    except KeyboardInterrupt:
        return 130
    except WorldError as problem:
        sys.stderr.write(f"error: {problem}\n")
        return 2
    again = ["scripts/faults", "--seed", str(asked.seed), "--what", *asked.what, "--settle", f"{asked.settle:g}"]
    again += [] if asked.faults is None else ["--faults", str(asked.faults)]
    again += [] if asked.seconds == float("inf") else ["--seconds", f"{asked.seconds:g}"]
    if asked.json:
        sys.stdout.write(json.dumps({"seed": asked.seed, **report.as_dict(), "again": " ".join(again)}, indent=2) + "\n")
    else:
        _print(report, asked.seed)
    if report.found:
        sys.stderr.write(f"again: {' '.join(again)}\nnotes, logs and the broker's store: {directory}\n")
    elif asked.keep is None:
        shutil.rmtree(directory, ignore_errors=True)
    return 1 if report.found else 0


def _print(report: Report, seed: int) -> None:
    said = [f"{count} of {what}" for what, count in sorted(report.faults.items())]
    lines = [
        f"faults: {sum(report.faults.values())} in {report.seconds:.0f} s, seed {seed}: {', '.join(said) or 'none'}",
        f"processes started: {report.starts}",
        *(f"{what}: {count:,}" for what, count in report.done.items()),
        "awaits: " + ", ".join(f"{count:,} {what}" for what, count in sorted(report.outcomes.items())),
        *(f"FOUND {each}" for each in report.found),
        f"{len(report.found)} findings",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/faults", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="of faults (default: 120, or without end where --faults says how many)")
    parser.add_argument("--faults", type=int, metavar="N", help="so many, at most")
    parser.add_argument("--what", nargs="+", choices=list(WHAT), default=list(WHAT), help="which kinds (default: all)")
    parser.add_argument("--settle", type=float, default=SETTLED, metavar="S", help=f"to settle; from {SETTLED:g} on nothing may be left")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**31), metavar="N", help="the same seed makes the same plan")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave notes, logs and the broker's store there, whatever was found")
    parser.add_argument("--json", action="store_true", help="what was done and found, for programs")
    return parser


if __name__ == "__main__":
    sys.exit(main())
