"""What `mesh up` shows a person: where it is reached, and each change once."""

import asyncio
import re
from pathlib import Path

from mesh.cli.output import Output
from mesh.cli.reports import TextReport
from tests.cli_helpers import started
from tests.test_up import NOTES, agents_file


class Lines(Output):
    """An output that keeps what it is given."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def write(self, text: str) -> int:
        self.said += text.splitlines()
        return len(text)


async def test_it_says_where_hosts_reach_it(tmp_path: Path) -> None:
    agents_file(tmp_path, notes=NOTES)
    words = ("up", "--state-dir", tmp_path / "state", "--broker-port", 0, "--http-port", 0)
    async with asyncio.timeout(30), started(*words, cwd=tmp_path) as process:
        assert process.stdout is not None
        said = ""
        while "Ctrl-C ends it." not in said:
            said += (await process.stdout.readline()).decode()
        process.terminate()
        await process.wait()
    (port,) = re.findall(r"HTTP +http://127\.0\.0\.1:(\d+)/mcp ", said)
    assert f"ws://127.0.0.1:{port}/ws " in said
    assert f"http://127.0.0.1:{port}/agents/notes/mcp" in said


def test_what_fails_in_the_same_words_is_told_once_and_counted() -> None:
    out = Lines()
    report = TextReport(out, ["bad", "good"], option="", open_to=None)
    for _ in range(40):
        report.event("starting", "bad", "")
        report.event("failed", "bad", "no such program")
        report.event("starting", "good", "")
    report.event("ready", "good", "1 tools")
    report.event("failed", "bad", "it ended with code 1")
    report.event("ready", "bad", "3 tools")
    assert [line.split() for line in out.said] == [
        ["bad", "failed", "no", "such", "program"],
        ["good", "ready", "1", "tools"],
        ["bad", "failed", "40", "times", "in", "all"],
        ["bad", "failed", "it", "ended", "with", "code", "1"],
        ["bad", "ready", "3", "tools"],
    ]
