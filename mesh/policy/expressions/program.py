"""One expression: compiled, looked over, and run within bounds.

What is written is checked when it is set up: syntax, names, types, depth (the library's own: 32), the fields of `event`, literal patterns,
and the cost on a small event. What it is run on is measured first: bytes, longest list, depth; and where it could cost more than the
budget, it does not run. No function of ours is registered and only plain JSON goes in, so nothing of Python can be reached from there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json

from mesh.errors import BadExpression
from mesh.policy.expressions.cost import BUDGET, Cost, instructions
from mesh.policy.expressions.tree import Tree, parse

if TYPE_CHECKING:
    from cel_expr_python import cel

LONGEST: Final = 4096
"""Characters of an expression."""

DEEPEST: Final = 64
"""Levels of the data that an expression sees. The library goes down by recursion, without a bound of its own."""

MOST_INSTRUCTIONS: Final = 5_000
"""Of a pattern of `matches`."""

_SMALL: Final = (1024, 64)
"""Bytes and longest list of an event that every expression must be able to see."""

_where: Final = re.compile(r"<input>:(\d+):(\d+): (.*)")


@dataclass(frozen=True, slots=True)
class Variables:
    """What an expression may name: `data`, of which nothing is known, `texts`, and `records` with the members that each has."""

    data: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    records: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return (*(name for name, _ in self.records), *self.data, *self.texts)


@lru_cache(maxsize=16)
def _environment(variables: Variables) -> "cel.Env":
    from cel_expr_python import cel  # with the first expression: few processes see one

    record = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
    types: dict[str, cel.Type] = dict.fromkeys(variables.data, cel.Type.DYN)
    types |= dict.fromkeys(variables.texts, cel.Type.STRING)
    types |= {name: record for name, _ in variables.records}
    return cel.NewEnv(variables=types)


class Program:
    """`Program(text, variables, yields)`, where `yields` is `bool` or `map`. Raises BadExpression, with `line` and `column` in its
    details."""

    def __init__(self, text: str, variables: Variables, yields: str) -> None:
        self.text = text
        self._yields = yields
        if len(text) > LONGEST:
            raise BadExpression(f"an expression has at most {LONGEST} characters, and this has {len(text)}", hint="say less in it")
        try:
            text.encode()
            self._compiled = _environment(variables).compile(text)
        except UnicodeEncodeError:
            raise BadExpression("an expression is text, and this holds half a character", hint="leave out the lone surrogate") from None
        except RuntimeError as problem:
            raise _said(str(problem), variables) from None
        given = self._compiled.return_type().name()
        if given != "DYN" and not given.startswith(yields.upper()):
            wanted, hint = ("true or false", "compare: data.n > 3") if yields == "bool" else ("a map", "write {'key': value}")
            raise BadExpression(f"the expression yields {given}, and must yield {wanted}", hint=hint)
        tree = parse(self._compiled.serialize())
        self._root = tree.root
        self._roots = frozenset(name for name in variables.names if name not in variables.texts)
        self.members = _look_over(tree, text, variables)
        """Of each record, the members that the expression reads; None: all of them."""
        self._allowed: dict[tuple[int, int], bool] = {}
        if not self._may_see(*_SMALL):
            raise BadExpression(
                f"the expression may cost too much even on an event of {_SMALL[0]} bytes",
                hint="nest fewer loops (all, exists, map, filter), and use shorter patterns",
            )

    def run(self, values: Mapping[str, Any]) -> Any:
        """What it yields: a bool or a dict of plain JSON. Raises BadExpression where it fails on these values, or would cost too much."""
        size, longest = measure([values[name] for name in self._roots if name in values])
        if not self._may_see(size, longest):
            raise BadExpression(
                f"the expression could take too long on data of {size} bytes",
                hint="loops over large data are not run: simplify it, or send less",
            )
        try:
            value = self._compiled.eval(data=dict(values))
            failed = value.type().name() == "ERROR"
            plain = None if failed else value.plain_value()
        except (RuntimeError, ValueError, TypeError) as problem:
            raise BadExpression(f"the expression failed: {_first(str(problem))}", hint=_ON_FAILURE) from None
        if failed:
            raise BadExpression(f"the expression failed: {_first(str(value.value()))}", hint=_ON_FAILURE)
        if self._yields == "bool":
            if not isinstance(plain, bool):
                raise BadExpression("the expression yielded neither true nor false", hint=_ON_FAILURE)
            return plain
        if not isinstance(plain, dict):
            raise BadExpression("the expression yielded no map", hint=_ON_FAILURE)
        return _json(plain)

    def _may_see(self, size: int, longest: int) -> bool:
        """Whether it stays within the budget on data of this size. Asked for the next power of two, and remembered."""
        key = (max(size, 512) - 1).bit_length(), (max(longest, 8) - 1).bit_length()
        allowed = self._allowed.get(key)
        if allowed is None:
            allowed = self._allowed[key] = Cost(2.0 ** key[0], 2.0 ** key[1], self._roots).total(self._root) <= BUDGET
        return allowed


_ON_FAILURE: Final = "ask with has(…) for what may be missing; whole numbers and fractions are added only after double(…) or int(…)"


def measure(values: Any) -> tuple[int, int]:
    """The bytes of its JSON, and how long its longest list or map can be at most. Raises BadExpression for what is too deep, or no JSON."""
    try:
        raw = to_json(values, bytes_mode="base64", inf_nan_mode="constants")
    except (ValueError, RecursionError) as problem:  # it goes 255 levels down, and no further
        raise BadExpression(f"the data is no JSON, or nested more than {DEEPEST} deep: {problem}", hint="send plain JSON") from None
    if raw.count(b"[") + raw.count(b"{") > DEEPEST and _is_deep(values):
        raise BadExpression(f"the data is nested more than {DEEPEST} deep", hint="nothing is looked at below that")
    return len(raw), raw.count(b",") + 1


def _is_deep(values: Any) -> bool:
    level = [values]
    for _ in range(DEEPEST + 2):
        level = [
            each for held in level for each in (held.values() if isinstance(held, dict) else held) if isinstance(each, dict | list | tuple)
        ]
        if not level:
            return False
    return True


def _look_over(tree: Tree, text: str, variables: Variables) -> Mapping[str, frozenset[str] | None]:
    """What the compiler does not refuse. Returns the members of the records that are read."""
    records = dict(variables.records)
    whole: set[str] = set()
    read: dict[str, set[str]] = {name: set() for name in records}
    by_member: set[int] = set()
    for node in tree.root.all():
        if node.kind == "struct" and node.name:
            raise _at(tree, text, node.id, f"messages as {node.name} cannot be made here", "make a map: {'key': value}")
        if node.kind == "call" and node.name == "matches":
            pattern = node.parts[-1].value
            if node.parts[-1].kind != "const" or not isinstance(pattern, str):
                raise _at(tree, text, node.id, "the pattern of matches() must be a literal text", "write it in quotes, as in matches('^a')")
            if instructions(pattern) > MOST_INSTRUCTIONS:
                raise _at(tree, text, node.id, "the pattern of matches() is too large", "repeat less in it")
        if node.kind == "select" and node.parts[0].kind == "ident" and node.parts[0].name in records:
            name, member = node.parts[0].name, node.name
            if member not in records[name]:
                hint = f"{name} has {', '.join(records[name])}"
                raise _at(tree, text, node.id, f"{name} has no {member!r}", hint)
            by_member.add(id(node.parts[0]))
            read[name].add(member)
    for node in tree.root.all():
        if node.kind == "ident" and node.name in records and id(node) not in by_member:
            whole.add(node.name)
    return {name: None if name in whole else frozenset(members) for name, members in read.items()}


def _at(tree: Tree, text: str, id: int, message: str, hint: str) -> BadExpression:
    before = text[: tree.positions.get(id, 0)]
    line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
    return BadExpression(f"line {line}, column {column}: {message}", hint=hint, line=line, column=column)


def _said(problem: str, variables: Variables) -> BadExpression:
    """The compiler's own first error."""
    found = _where.search(problem)
    if "recursion" in problem:
        return BadExpression("the expression is nested, or chained, more than 32 deep", hint="use `in [a, b, …]` in place of many ||")
    if found is None or int(found[1]) < 1:
        return BadExpression(f"the expression cannot be used: {_first(problem)}", hint=_names(variables))
    line, column, message = int(found[1]), int(found[2]), found[3]
    hint = (
        _names(variables) if "undeclared" in message else "CEL is described at cel.dev; texts stand in quotes, == compares, && and || join"
    )
    return BadExpression(f"line {line}, column {column}: {message.strip()[:300]}", hint=hint, line=line, column=column)


def _names(variables: Variables) -> str:
    return f"an expression knows {', '.join(variables.names)}, and CEL's own functions"


def _first(problem: str) -> str:
    return problem.partition("\n")[0].partition(": ")[2][:300] or problem[:300]


def _json(value: Any) -> Any:
    """What came out, as plain JSON. Raises BadExpression for what is none: bytes, times, keys that are no texts."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise BadExpression("the expression yielded a map whose keys are not all texts", hint="write keys in quotes, or use string(…)")
        return {key: _json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json(each) for each in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise BadExpression(f"the expression yielded a {type(value).__name__}, which is no JSON", hint="turn it into a text with string(…)")
