"""What reaches a terminal, a pipe or the log: never a control character of somebody else's, and never at the price of waiting."""

import json
import logging
import os
from pathlib import Path

import pytest
import structlog

from mesh.admin import AgentView, InstanceView, LostView
from mesh.cli import render
from mesh.cli.agents import agents_table
from mesh.cli.live_checks import check_agent
from mesh.cli.logging import configure
from mesh.cli.output import MOST_WAITING, Output


def test_text_of_others_cannot_speak_to_the_terminal() -> None:
    assert render.plain("a\x1b[2Jb\r\nc\u202e") == "a [2Jb  c "
    assert render.plain("a\n\tb\x07", lines=True) == "a\n\tb\ufffd"
    console = render.console()
    with console.capture() as captured:
        console.print(render.table(("name", "state"), [("[red]x[/]\x1b[2J", "up")]))
    assert captured.get().splitlines()[1].startswith("[red]x[/] [2J  up")


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "a\nb"),
        ({"content": [], "structuredContent": {"a": 1}}, '{\n  "a": 1\n}'),
        ({"content": [{"type": "image", "mimeType": "image/png", "data": "QUJD"}]}, "[image image/png, 3 B; --json shows it]"),
        ({"content": [{"type": "resource", "resource": {"uri": "a:b", "text": "held"}}]}, "held"),
        ({"content": [{"type": "resource", "resource": {"uri": "a:b", "blob": "QUJD"}}]}, "[resource a:b, ; --json shows it]"),
        ({"content": [{"type": "resource_link", "uri": "a:b"}]}, "[resource a:b]"),
        ({"content": [{"type": "new", "x": 1}, 5]}, '[new] {"type": "new", "x": 1}'),
        ({"content": "odd"}, ""),
        ({}, ""),
    ],
)
def test_a_result_for_people(result: dict[str, object], text: str) -> None:
    assert render.content_text(result) == text


def test_json_of_any_text(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_json({"a": "\ud800", "b": "ü"})
    assert json.loads(capsys.readouterr().out) == {"a": "\ud800", "b": "ü"}


@pytest.mark.parametrize(("seconds", "text"), [(0, "0.0s"), (59.94, "59.9s"), (60, "1m"), (7300, "2h"), (200_000, "2d")])
def test_ages(seconds: float, text: str) -> None:
    assert render.age(seconds) == text


def test_output_that_nobody_reads_costs_nothing() -> None:
    """A plain write would wait here for ever."""
    reading, writing = os.pipe()
    out = Output(writing)
    line = "x" * 1000 + "\n"
    for _ in range(3 * MOST_WAITING):
        out.write(line)
    os.close(reading)  # The writer learns that nobody will read, and goes on.
    out.finish()
    os.close(writing)


def test_output_is_whole_at_the_end() -> None:
    reading, writing = os.pipe()
    out = Output(writing)
    for number in range(100):
        out.write(f"{number} ü\n")
    out.finish()
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as lines:
        assert lines.read() == "".join(f"{number} ü\n" for number in range(100))


def test_the_log_has_one_line_an_event(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mesh.log"
    try:
        configure(file=path)
        structlog.get_logger("mesh.one").info("came up", agent="a b", line="x\x1b[2J\nforged", count=3)
        logging.getLogger("mesh.two").warning("%s", "died")
        try:
            raise ValueError("why")
        except ValueError:
            structlog.get_logger("mesh.three").exception("failed")
    finally:
        configure(stderr=None)
    first, second, third, *trace = path.read_text().splitlines()
    assert first.partition("Z ")[2] == r"info     mesh.one: came up  agent='a b' line=x\x1b[2J\nforged count=3"
    assert second.partition("Z ")[2] == "warning  mesh.two: died"
    assert third.partition("Z ")[2] == "error    mesh.three: failed"
    assert trace[-1] == "ValueError: why"
    shown = capsys.readouterr()
    assert (shown.out, [line.split()[1] for line in shown.err.splitlines() if "mesh." in line]) == ("", ["warning", "error"])


def an_agent(*, lives: int = 0, lost: int = 0, serves: bool = True) -> AgentView:
    instances = tuple(InstanceView(f"i{n}", True, "up", 9.0, 0.5, 0, 0, 0, "host", 1) for n in range(lives))
    gone = tuple(LostView(f"l{n}", 0, 60.0 * (lost - n), "its heartbeat stopped") for n in range(lost))
    return AgentView("time", "", "", "1", (), ("2025-11-25",) if serves else (), 2, instances, gone)


@pytest.mark.parametrize(
    ("view", "result", "said"),
    [
        (an_agent(lives=2), "ok", "2 of 2 instances healthy"),
        (an_agent(lives=1, lost=20), "warn", "lost within the hour: 20"),
        (an_agent(lost=20), "fail", "20 lost within the hour, the last 1m ago: its heartbeat stopped"),
        (an_agent(lost=20, serves=False), "warn", "20 lost within the hour"),
    ],
)
def test_the_doctor_says_one_thing_of_an_agent_however_many_were_lost(view: AgentView, result: str, said: str) -> None:
    """And fails where somebody has to do something: a client that was killed, or a place that was taken since, is nobody's work."""
    check = check_agent(view)
    assert (check.result.value, said in check.said) == (result, True), check


def test_a_line_for_each_agent_of_which_instances_were_lost() -> None:
    shown = render.console()
    with shown.capture() as captured:
        shown.print(agents_table([an_agent(lives=1, lost=20), an_agent(lost=1)]))
    assert [line.strip() for line in captured.get().splitlines() if line.startswith("lost")] == [
        "lost 1m ago: time l19: its heartbeat stopped; 20 within the hour",
        "lost 1m ago: time l0: its heartbeat stopped",
    ]
