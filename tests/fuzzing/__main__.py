"""`scripts/fuzz`: parsers first, then a mesh that runs."""

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from mesh.cli import logging
from tests.conftest import Broker
from tests.fuzzing import live, parsers
from tests.helpers import Background, control_plane


def main() -> int:
    options = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__, epilog="Example: scripts/fuzz --inputs 1000000 --seed 1")
    options.add_argument("--inputs", type=int, default=1_000_000, metavar="N", help="for the parsers (default: a million, some minutes)")
    options.add_argument("--live", type=int, default=50_000, metavar="N", help="messages to a mesh that runs (default: 50,000)")
    options.add_argument("--seed", type=int, default=secrets.randbelow(2**31), metavar="N", help="the same seed makes the same inputs")
    asked = options.parse_args()
    logging.configure(stderr=None)
    found = parsers.report(asked.inputs, asked.seed)
    if asked.live:
        with tempfile.TemporaryDirectory(prefix="mesh-fuzz-") as directory:
            broker = Broker(Path(directory) / ".mesh")
            try:
                broker.start()
                with Background(lambda: control_plane(broker.url)):
                    found += live.report(broker.url, asked.live, asked.seed)
            finally:
                broker.close()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
