"""The quality manager: runs test suites while you watch, and keeps a list of bugs.

`streams` is what the mesh serves beside the tools: a stream of type `test_execution` takes commands, and tells what happens.

| we are told                                          | we tell                                                       |
|------------------------------------------------------|---------------------------------------------------------------|
| `{"action": "start_tests", "suite": "regression"}`   | `{"event": "started", "suite", "tests"}`                      |
|                                                      | `{"event": "test", "name", "outcome", "seconds", "detail"?}`  |
| `{"action": "stop_tests"}`: after the test that runs | `{"event": "finished", "suite", "run", "failed", "stopped"}`  |
| anything else                                        | `{"event": "refused", "why"}`                                 |
"""

import asyncio
import time
import unittest
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field

from examples.personas.persona import READS, make_persona
from mesh.streams import Stream

SUITES: Final = {"regression": "examples.personas.regression"}
"""Modules with tests of `unittest`, by what they are called here."""

HOURS: Final = {"P0": 4, "P1": 24, "P2": 72}
"""To mend a bug of this priority."""

MOST_BUGS: Final = 10_000

server = make_persona("qa-manager")


class Bug(BaseModel):
    id: int
    title: str
    priority: Literal["P0", "P1", "P2"]
    due_in_hours: int
    open: bool = True


bugs: list[Bug] = []


@server.tool()
async def bug_tracker(
    action: Literal["report", "close", "list"] = "list",
    title: Annotated[str, Field(max_length=1_000, description="for report")] = "",
    priority: Annotated[Literal["P0", "P1", "P2"], Field(description="for report")] = "P2",
    id: Annotated[int, Field(description="for close")] = 0,
) -> list[Bug]:
    """Report a bug, close one, or list those that are open. Returns the bug, or the list."""
    if action == "list":
        return [bug for bug in bugs if bug.open]
    if action == "report":
        if not title or len(bugs) >= MOST_BUGS:
            raise ValueError("a bug has a title" if not title else f"there are {MOST_BUGS} bugs already")
        bugs.append(Bug(id=len(bugs) + 1, title=title, priority=priority, due_in_hours=HOURS[priority]))
        return [bugs[-1]]
    if not 1 <= id <= len(bugs):
        raise ValueError(f"there is no bug {id}")
    bugs[id - 1].open = False
    return [bugs[id - 1]]


@server.tool(annotations=READS)
def regression_suite_manager() -> dict[str, list[str]]:
    """The suites that can be run, and the tests of each."""
    return {name: [test.id().rpartition(".")[2] for test in _tests_of(_load(name))] for name in SUITES}


async def test_execution(stream: Stream) -> None:
    """One run after the other, each told as it happens, until the other end has said all and the last run is over."""
    running: tuple[asyncio.Task[None], Report] | None = None
    try:
        async for said in stream:
            match said:
                case {"action": "start_tests", "suite": str(name)} if name in SUITES and (running is None or running[0].done()):
                    report = Report(stream, name, asyncio.get_running_loop())
                    running = asyncio.create_task(_run(report), name=f"suite {name}"), report
                case {"action": "stop_tests"} if running is not None:
                    running[1].stop()
                case _:
                    await stream.send({"event": "refused", "why": f"start_tests (one of {', '.join(SUITES)}, one at a time) or stop_tests"})
        if running is not None:
            await running[0]
    finally:
        if running is not None:
            running[1].stop()
            await asyncio.gather(running[0], return_exceptions=True)


streams = {"test_execution": test_execution}


class Report(unittest.TestResult):
    """Tells each result as it comes. It lives in the thread of the tests, which waits while the reader of the stream is slower."""

    def __init__(self, stream: Stream, suite: str, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._stream = stream
        self.suite = suite
        self._loop = loop
        self._began = 0.0
        self._said: dict[str, str] = {}

    def tell(self, said: dict[str, Any]) -> None:
        asyncio.run_coroutine_threadsafe(self._stream.send(said), self._loop).result()

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self._began, self._said = time.perf_counter(), {"outcome": "passed"}

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().stopTest(test)
        seconds = round(time.perf_counter() - self._began, 4)
        self.tell({"event": "test", "name": test.id().rpartition(".")[2], **self._said, "seconds": seconds})

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self._said = {"outcome": "failed", "detail": str(err[1])}

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self._said = {"outcome": "error", "detail": f"{err[0].__name__}: {err[1]}"}

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self._said = {"outcome": "skipped", "detail": reason}


async def _run(report: Report) -> None:
    def work() -> None:
        suite = _load(report.suite)
        report.tell({"event": "started", "suite": report.suite, "tests": suite.countTestCases()})
        suite.run(report)
        failed = len(report.failures) + len(report.errors)
        report.tell(
            {"event": "finished", "suite": report.suite, "run": report.testsRun, "failed": failed, "stopped": bool(report.shouldStop)}
        )

    await asyncio.to_thread(work)


def _load(name: str) -> unittest.TestSuite:
    return unittest.defaultTestLoader.loadTestsFromName(SUITES[name])


def _tests_of(suite: unittest.TestSuite) -> list[unittest.TestCase]:
    return [test for each in suite for test in (_tests_of(each) if isinstance(each, unittest.TestSuite) else [each])]
