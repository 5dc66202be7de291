"""Judges a schema that somebody wants to register, in a process of its own: `python -m mesh.policy.schemas.judge`.

What is judged was written by others, and judging it is work of other people's code with no bound in the worst case. So it has a process,
with seconds of processor time and some memory, and whatever becomes of that process the control plane goes on. On stdin `{"document",
"rule", "before": {version: document}, "defaults", "convert"}`; on stdout `{}`, or the error as `MeshError.as_dict` gives it.
"""

import contextlib
import json
import sys
from typing import Any, Final

from mesh.errors import IncompatibleSchema, MeshError
from mesh.policy.expressions import Program
from mesh.policy.schemas.compatibility import Rule, check_rule
from mesh.policy.schemas.document import take
from mesh.policy.schemas.lifting import CONVERSION

SECONDS: Final = 5
"""Of the processor. Schemas at their largest were judged in 0.1."""

_MEMORY: Final = 2 * 1024**3


def judge(document: Any, rule: str, before: dict[int, Any], defaults: dict[str, Any], convert: str) -> None:
    """Raises IncompatibleSchema, BadExpression."""
    take(document)
    if convert:
        Program(convert, CONVERSION, "map")
        if Rule(rule) is not Rule.NONE and before:
            raise IncompatibleSchema(
                f"what a conversion yields cannot be judged, and the rule is {rule}",
                hint="fill in defaults instead of a conversion, or let the topic's owner register it with the rule none",
            )
    check_rule(Rule(rule), document, before, defaults)


def main() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not everywhere, and not everywhere settable
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    asked = json.load(sys.stdin.buffer)
    before = {int(version): document for version, document in asked["before"].items()}
    said: dict[str, Any] = {}
    try:
        judge(asked["document"], asked["rule"], before, asked["defaults"], asked["convert"])
    except MeshError as problem:
        said = problem.as_dict()
    except RecursionError:
        said = IncompatibleSchema("the schema is nested too deep to be judged", hint="say it flatter, with $defs").as_dict()
    sys.stdout.write(json.dumps(said))


if __name__ == "__main__":
    main()
