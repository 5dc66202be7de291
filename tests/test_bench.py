"""The bench measures, says what it found in a shape that programs can read, and leaves nobody behind. How fast it is, is not tested."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from bench import peers
from bench.__main__ import QUICK, measure
from bench.peers import Peer
from bench.rows import ROWS
from bench.stage import BenchError
from bench.table import Measured, Outcome, Row, Side

ROOT: Final = Path(__file__).parent.parent
BENCH: Final = (sys.executable, "-m", "bench", "--quick")


@pytest.fixture
def marked() -> dict[str, str]:
    """An environment by which every process that the bench starts can be told."""
    return {**os.environ, "BENCH_TEST": secrets.token_hex(16)}


def processes(env: dict[str, str]) -> list[str]:
    """Command lines of what runs in that environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if env["BENCH_TEST"].encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has just ended
            continue
    return found


async def finish(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(90):
        output, _ = await process.communicate()
    return output.decode()


async def start(env: dict[str, str], *options: str) -> asyncio.subprocess.Process:
    pipe, merged = asyncio.subprocess.PIPE, asyncio.subprocess.STDOUT
    return await asyncio.create_subprocess_exec(*BENCH, *options, cwd=ROOT, env=env, stdout=pipe, stderr=merged)


async def test_measures_and_says_what_it_found(tmp_path: Path, marked: dict[str, str]) -> None:
    file = tmp_path / "figures.json"
    process = await start(marked, "--only", "call-p50", "http-p50", "bridge-memory", "--json", str(file))
    output = await finish(process)
    assert process.returncode == 0, output
    said = json.loads(file.read_text())
    assert said["quick"] is True
    assert said["machine"]["cpus"] >= 1
    assert said["machine"]["nats-server"]
    compared, over_http, bounded = said["rows"]
    assert (compared["name"], bounded["name"]) == ("call-p50", "bridge-memory")
    assert [side["name"] for side in compared["sides"]] == ["mesh.call", "nats-py"]
    assert len(compared["rounds"]) == said["pace"]["rounds"] == len(compared["sides"][0]["rounds"])
    assert min(compared["rounds"]) <= compared["value"] <= max(compared["rounds"])
    assert 10 < bounded["value"] < 1000
    assert [side["name"] for side in over_http["sides"]] == ["HTTP to mesh", "direct"]
    assert "call-p50" in output
    assert str(file) in output
    assert processes(marked) == []


async def test_ctrl_c_leaves_nobody_behind(tmp_path: Path, marked: dict[str, str]) -> None:
    process = await start(marked, "--only", "call-p50", "--rounds", "1000", "--json", str(tmp_path / "figures.json"))
    async with asyncio.timeout(20):
        while not any("mesh-caller" in each for each in processes(marked)):  # noqa: ASYNC110 - other processes: nobody tells us
            await asyncio.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output = await finish(process)
    assert process.returncode == 130, output
    assert "Traceback" not in output
    assert processes(marked) == []
    assert not (tmp_path / "figures.json").exists()


async def test_a_row_whose_peer_is_not_there_says_so_and_is_not_met(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured in its place, and the table has the command that installs it."""
    monkeypatch.setattr(peers, "RESULTS", tmp_path)
    rows = [row for row in ROWS if row.peer is not None]
    assert {row.peer for row in rows} == set(peers.PEERS)
    outcomes = await measure(rows, QUICK)
    assert all(not outcome.met and "scripts/bench --peers" in outcome.error for outcome in outcomes)


async def test_half_an_installation_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "RESULTS", tmp_path)
    (tmp_path / "peers" / "p-1").mkdir(parents=True)
    peer = Peer("p", "1", ("{bin}/p", "{port}"), "/mcp")
    with pytest.raises(BenchError):
        peers.command_of(peer)
    (peer.home / "whole").touch()
    assert peers.command_of(peer) == [f"{peer.home}/bin/p", "{port}"]


def test_help_names_every_row() -> None:
    output = subprocess.run([*BENCH, "--help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    assert all(row.name in output and row.what in output for row in ROWS)


@pytest.mark.parametrize(
    ("compare", "values", "met"),
    [("at most", (1.0, 2.0, 9.0), True), ("at most", (1.0, 2.1, 2.2), False), ("at least", (1.9, 2.0), False), ("at least", (2.0,), True)],
)
def test_the_median_decides(compare: Any, values: tuple[float, ...], met: bool) -> None:
    async def measure(*_: object) -> Measured:
        raise NotImplementedError

    row = Row("name", "what", "x", compare, 2.0, measure)
    assert Outcome(row, Measured(values, (Side("a", "/s", values),))).met is met
    assert not Outcome(row, None, "why").met
