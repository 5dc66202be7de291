"""Filters and transformations of events, in CEL (decision 13).

What both see: `event` with the members `id`, `source`, `type`, `subject`, `time`, `data` and `extensions` (as in CloudEvents' JSON; what an
event does not have is not there), and `topic`, `publisher`, `priority`.

- A **filter** yields true or false. Where it fails on an event (a member that is not there, a text compared by `<` with a number, a cost
  over the budget) the event does not match: it is counted in `failed`, and the first one is logged.
- A **transformation** yields the new data as a map; or, written as a table of members and expressions, what replaces those members. Where
  it fails, the event is not delivered: it is a dead letter `invalid`.
"""

from collections.abc import Mapping
from typing import Any, Final

import structlog

from mesh.delivery import Reject
from mesh.errors import BadExpression
from mesh.policy.expressions import Program, Variables
from mesh.wire.event import Event

MEMBERS: Final = ("id", "source", "type", "subject", "time", "data", "extensions")
VARIABLES: Final = Variables(records=(("event", MEMBERS),), texts=("topic", "publisher", "priority"))

MOST_REPLACED: Final = 64
"""Members that one transformation may replace."""

_log = structlog.get_logger("mesh.events")


class Filter:
    """`Filter(text)` raises BadExpression; `filter(event)` says whether the event matches, and never raises."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.failed = 0
        self._program = Program(text, VARIABLES, "bool")

    def __call__(self, event: Event) -> bool:
        try:
            return bool(self._program.run(_seen(self._program, event)))
        except BadExpression as problem:
            self.failed += 1
            if self.failed == 1:
                _log.warning(
                    "a filter failed on an event, which counts as no match", filter=self.text, topic=event.topic, why=problem.message
                )
            return False


class Transform:
    """`Transform(text)`, or `Transform({member: text})`, raises BadExpression; `transform(event)` gives the event with its new data, or
    raises InvalidEvent."""

    def __init__(self, text: str | Mapping[str, str]) -> None:
        self.text = text
        self._whole: Program | None = None
        self._members: dict[str, Program] = {}
        if isinstance(text, str):
            self._whole = Program(text, VARIABLES, "map")
        elif not text or len(text) > MOST_REPLACED:
            raise BadExpression(
                f"a transformation replaces 1 to {MOST_REPLACED} members", hint="write one expression that yields the whole map"
            )
        else:
            # Each is compiled as the one member of a map, so that it may yield whatever JSON can say.
            self._members = {member: Program(f"{{'value': {each}\n}}", VARIABLES, "map") for member, each in text.items()}

    def __call__(self, event: Event) -> Event:
        try:
            if self._whole is not None:
                return event.with_data(self._whole.run(_seen(self._whole, event)))
            if not isinstance(event.data, dict):
                raise BadExpression(
                    "the data is no map, so none of its members can be replaced", hint="write one expression that yields the whole map"
                )
            replaced = {member: program.run(_seen(program, event))["value"] for member, program in self._members.items()}
            return event.with_data({**event.data, **replaced})
        except BadExpression as problem:
            raise Reject(f"the transformation failed: {problem.message}", code="invalid") from None


def _seen(program: Program, event: Event) -> dict[str, Any]:
    """What an expression is given: of the event only what it reads, since all of that is copied into the library."""
    wanted = program.members["event"]
    attributes = event.attributes
    seen: dict[str, Any] = {}
    for member in MEMBERS if wanted is None else wanted:
        if member == "data":
            seen["data"] = event.data
        elif member == "extensions":
            seen["extensions"] = event.extensions
        elif member in attributes:
            seen[member] = attributes[member]
    return {"event": seen, "topic": event.topic, "publisher": event.publisher, "priority": event.priority}
