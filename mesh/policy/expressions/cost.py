"""What an expression can cost at most, before it runs.

The library stops an evaluation after 10,000 iterations, and its regular expressions (RE2) never go back. But it bounds no bytes: 9,000
iterations that each copy a text of 1 MB took 44 seconds and 10 GB, with the interpreter's lock held. So the cost is bounded beforehand, as
Kubernetes does for its CEL rules, from the tree and from two figures of the data: its bytes, and the length of its longest list or map.

Costs and sizes are linear forms over the variables of the loops around them. That is what makes the bound useful: in `items.all(x, x.name
== 'a')` each comparison may cost as much as its `x`, and all `x` together are no larger than `items`. When a loop is left, its variable is
replaced by its range.

A unit is about a nanosecond. The weights were measured with cel-expr-python 0.1.3 and rounded up; `tests/test_expressions.py` holds them
against what worst cases take.
"""

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

from mesh.policy.expressions.tree import Node

BUDGET: Final = 50_000_000
"""50 ms: as long as an event loop may stand still for one event that was made to be expensive."""

ITERATIONS: Final = 10_000
"""The library's own bound on all iterations of one evaluation."""

_NODE: Final = 100.0
_CONVERT: Final = 30.0
"""A byte of data into the library, and out of it."""
_COMPARE: Final = 20.0
_COPY: Final = 2.0
_APPEND: Final = 25.0
"""`map` and `filter` copy the list so far at each step."""
_SEARCH: Final = 0.3
"""A byte of a text times a byte of what is searched in it."""
_MATCH: Final = 15.0
"""A byte of a text times an instruction of a pattern, where RE2 falls back to its slowest way."""
_PATTERN: Final = 1000.0
"""An instruction of a pattern, each time that it is compiled."""

Form = Mapping[str, float]
"""A linear form: by variable its factor, and under `""` what does not depend on any."""


class Bound(NamedTuple):
    """Of a value: what it costs to have it, its bytes, and how many elements it has."""

    cost: Form
    size: Form
    length: float = 0.0


def _constant(value: float) -> Form:
    return {"": value}


def _sum(*forms: Form) -> Form:
    total: dict[str, float] = {}
    for form in forms:
        for name, factor in form.items():
            total[name] = total.get(name, 0.0) + factor
    return total


def _times(form: Form, factor: float) -> Form:
    return {name: each * factor for name, each in form.items()}


class Cost:
    """The bound of one tree on data of so many bytes, whose longest list or map has so many elements. `roots` are the variables that hold
    data."""

    def __init__(self, size: float, longest: float, roots: frozenset[str]) -> None:
        self._by_bytes = False
        """How the turns of a loop are counted: by the bytes that it runs over (two at least an element), or by the longest list. The first
        adds up in loops within loops, the second is closer in one. Both hold."""
        self._size = size
        self._longest = longest
        self._roots = roots
        self._largest: dict[str, float] = {}
        """Of the loop variables that are in scope: their bytes at most."""

    def total(self, root: Node) -> float:
        found = []
        for self._by_bytes in (False, True):
            bound = self._of(root, {})
            found.append(self._number(bound.cost) + _CONVERT * (self._size + self._number(bound.size)))
        return min(found)

    def _number(self, form: Form) -> float:
        return sum(factor * (1.0 if not name else self._largest[name]) for name, factor in form.items())

    def _of(self, node: Node, scope: dict[str, Bound]) -> Bound:
        match node.kind:
            case "const":
                size = 8.0 + (len(node.value) if isinstance(node.value, str | bytes) else 0)
                return Bound(_constant(_NODE), _constant(size))
            case "ident":
                if node.name in scope:
                    return scope[node.name]
                if node.name in self._roots:
                    return Bound(_constant(_NODE), _constant(self._size), self._longest)
                return Bound(_constant(_NODE), _constant(1024.0))
            case "select":
                operand = self._of(node.parts[0], scope)
                cost = _sum(operand.cost, _constant(_NODE))
                return Bound(cost, _constant(8.0)) if node.value else Bound(cost, operand.size, operand.length)
            case "list" | "struct":
                parts = [self._of(part, scope) for part in node.parts]
                cost = _sum(_constant(_NODE * (1 + len(parts))), *(part.cost for part in parts))
                return Bound(cost, _sum(_constant(8.0), *(part.size for part in parts)), float(len(parts)))
            case "call":
                return self._call(node, [self._of(part, scope) for part in node.parts])
            case "comprehension":
                return self._loop(node, scope)

    def _call(self, node: Node, parts: list[Bound]) -> Bound:
        cost = _sum(_constant(_NODE), *(part.cost for part in parts))
        sizes = [part.size for part in parts]
        size, length = _constant(16.0), 0.0
        match node.name:
            case "_[_]" | "dyn":
                size, length = sizes[0], parts[0].length
            case "_?_:_":
                size, length = _sum(*sizes[1:]), max(part.length for part in parts[1:])
            case "_+_":
                size, length = _sum(*sizes), sum(part.length for part in parts)
                cost = _sum(cost, _times(size, _COPY))
            case "_==_" | "_!=_" | "_<_" | "_<=_" | "_>_" | "_>=_":
                cost = _sum(cost, _times(min(sizes, key=self._number), _COMPARE))
            case "@in" | "_in_":
                cost = _sum(cost, _times(_sum(*sizes), _COMPARE))
            case "contains":
                cost = _sum(cost, _times(sizes[0], _SEARCH * self._number(sizes[1])))
            case "matches":
                steps = instructions(str(node.parts[-1].value))
                cost = _sum(cost, _constant(_PATTERN * steps), _times(sizes[0], _MATCH * steps))
            case "_&&_" | "_||_" | "!_" | "@not_strictly_false" | "type" | "_-_" | "_*_" | "_/_" | "_%_" | "-_":
                pass
            case _:  # size, startsWith, string, int, timestamp and the like: each reads what it is given, and writes no more than that
                size = _sum(_constant(64.0), *sizes)
                cost = _sum(cost, _times(size, _COPY))
        return Bound(cost, size, length)

    def _loop(self, node: Node, scope: dict[str, Bound]) -> Bound:
        over, start, condition, step, result = node.parts
        range_ = self._of(over, scope)
        begun = self._of(start, scope)
        turns = min(float(ITERATIONS), range_.length)
        variable = f"{node.variable}#{node.id}"
        self._largest[variable] = self._number(range_.size)
        builds = start.kind == "list"
        inside = dict(scope)
        of_data = all(each.kind in ("ident", "select") or each.name == "_[_]" for each in over.all() if each.kind != "const")
        inside[node.variable] = Bound(_constant(_NODE), {variable: 1.0}, self._longest if of_data else float(ITERATIONS))
        inside[node.accumulator] = Bound(_constant(_NODE), _constant(0.0 if builds else 64.0))
        tested, stepped = self._of(condition, inside), self._of(step, inside)

        def leave(form: Form) -> Form:
            always = form.get("", 0.0)
            each_turn = _times(range_.size, always / 2) if self._by_bytes else _constant(always * turns)
            others = {name: factor * turns for name, factor in form.items() if name not in (variable, "")}
            return _sum(each_turn, others, _times(range_.size, form.get(variable, 0.0)))

        size = leave(stepped.size) if builds else begun.size
        length = turns * max(1.0, stepped.length) if builds else 0.0
        copied = leave(_constant(_APPEND * turns if builds else 0.0))
        inside[node.accumulator] = Bound(_constant(_NODE), size, length)
        ended = self._of(result, inside)
        cost = _sum(
            range_.cost,
            begun.cost,
            leave(_sum(tested.cost, stepped.cost)),
            copied,
            leave(ended.cost) if variable in ended.cost else ended.cost,
        )
        del self._largest[variable]
        return Bound(cost, ended.size, ended.length)


_counted: Final = re.compile(r"\{(\d{1,6})(?:,(\d{0,6}))?\}")


def instructions(pattern: str) -> int:
    """How many instructions a pattern has at most, roughly: its length, times every count in it."""
    steps = len(pattern) + 1
    for least, most in _counted.findall(pattern):
        steps *= max(1, int(least), int(most or 0))
    return steps
