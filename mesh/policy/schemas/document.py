"""One schema: the part of JSON Schema 2020-12 that we take, and whether data fits it.

Taken is every keyword of the core, applicator and validation vocabularies, and annotations, `x-…` among them, but for what follows. Each
refusal names the place.

| not taken                                     | because                                                                            |
|-----------------------------------------------|------------------------------------------------------------------------------------|
| `$ref` to anywhere but `#/…` of the same text | nothing is fetched, and a version means the same for ever                            |
| `$id`, `$anchor`, `$dynamicRef`, `$dynamicAnchor`, `$vocabulary` | they change what a `$ref` or a keyword means                       |
| `unevaluatedItems`, `unevaluatedProperties`   | they need several passes; `additionalProperties` and `items` say it in one           |
| keywords that nobody knows                    | JSON Schema would ignore `requierd`                                                  |
| look-around and back-references in a pattern  | patterns are matched in linear time                                                  |
| recursion that branches                       | data of 64 levels could be visited 2^64 times; what may be visited is counted before |

Formats are annotations, as the specification has it.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from mesh.errors import BadExpression, IncompatibleSchema
from mesh.policy.expressions import DEEPEST, measure

if TYPE_CHECKING:
    import jsonschema_rs

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

LARGEST: Final = 64 * 1024
"""Bytes of a schema."""

MOST_VISITS: Final = 2_000
"""How often the levels above one value of the data, and itself, may be looked at."""

MOST_NODES: Final = 500
"""Schemas within a schema."""

LONGEST_PATTERN: Final = 512

_IN_PLACE: Final = {
    "allOf": "list", "anyOf": "list", "oneOf": "list", "not": "one", "if": "one", "then": "one", "else": "one", "dependentSchemas": "map",
}  # fmt: skip
_BELOW: Final = {"items": "one", "contains": "one", "additionalProperties": "one", "propertyNames": "one", "patternProperties": "map"}
_ONE_BELOW: Final = {"properties": "map", "prefixItems": "list"}
"""Of these at most one is for each value."""
_ASIDE: Final = {"$defs": "map"}
_HOLDING: Final = {**_IN_PLACE, **_BELOW, **_ONE_BELOW, **_ASIDE}

_TEXT: Final = """
$schema $ref $comment type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum maxLength minLength pattern maxItems
minItems uniqueItems maxContains minContains maxProperties minProperties required dependentRequired title description default deprecated
readOnly writeOnly examples format contentEncoding contentMediaType
"""
_PLAIN: Final = frozenset(_TEXT.split())
_INSTEAD: Final = {
    "definitions": "write $defs",
    "$id": "leave it out: a version is named by topic and number",
    "$anchor": "put it into $defs and refer to #/$defs/NAME",
    "$dynamicRef": "use $ref",
    "$dynamicAnchor": "use $defs and $ref",
    "unevaluatedProperties": "list the properties, and say additionalProperties: false",
    "unevaluatedItems": "say items: false beside prefixItems",
}

Document = dict[str, Any]


class Unfit(Exception):
    """Data that does not fit. `path` is a JSON pointer into the data, `rule` one into the schema."""

    def __init__(self, why: str, path: str = "", rule: str = "") -> None:
        super().__init__(why)
        self.why = why
        self.path = path
        self.rule = rule


class Schema:
    """A schema that was taken. `check(data)` raises Unfit."""

    def __init__(self, document: Document) -> None:
        import jsonschema_rs  # with the first schema: few processes see one

        self.document = document
        self._validator = jsonschema_rs.Draft202012Validator(document, offline=True, pattern_options=patterns(), validate_formats=False)

    def check(self, data: Any) -> None:
        if isinstance(data, bytes):
            raise Unfit("the data is bytes, and the topic has a schema of JSON")
        try:
            measure(data)
            if self._validator.is_valid(data):
                return
            misfit = next(self._validator.iter_errors(data))
        except BadExpression as problem:
            raise Unfit(problem.message) from None
        except (ValueError, TypeError) as problem:  # half a character, or what is no JSON at all
            raise Unfit(f"the data is no JSON: {problem}") from None
        raise Unfit(misfit.message[:500], pointer(misfit.instance_path), pointer(misfit.schema_path))

    def fits(self, data: Any) -> bool:
        try:
            self.check(data)
        except Unfit:
            return False
        return True


@cache
def patterns() -> "jsonschema_rs.RegexOptions":
    """What patterns may cost."""
    import jsonschema_rs

    return jsonschema_rs.RegexOptions(size_limit=256 * 1024, dfa_size_limit=256 * 1024)


def take(document: Any) -> Schema:
    """The schema that this JSON is. Raises IncompatibleSchema, with the `path` of what is not taken."""
    if not isinstance(document, dict):
        raise _refusal("a schema is a JSON object", "", 'write {"type": "object", "properties": {…}}')
    try:
        size, _ = measure(document)
    except BadExpression as problem:
        why = f"the schema is no JSON, or nested more than {DEEPEST} deep ({problem})"
        raise _refusal(why, "", "say it flatter, with $defs and $ref") from None
    if size > LARGEST:
        raise _refusal(f"a schema has at most {LARGEST} bytes, and this has {size}", "", "split the topic, or leave out examples")
    nodes = dict(_walk(document))
    for path, node in nodes.items():
        _check_node(path, node, nodes)
    visits = _Visits(nodes)
    if visits.of("", DEEPEST) > MOST_VISITS:
        why = "data could be looked at too often: the schema refers to itself, or branches, in too many ways"
        raise _refusal(why, visits.worst, "let it refer to itself once, not in each branch")
    try:
        return Schema(document)
    except ValueError as problem:  # what the library raises is one too
        path = pointer(getattr(problem, "instance_path", ()))
        why = str(getattr(problem, "message", problem)).partition("\n")[0][:300]
        pattern = "regex" in why or path.endswith("/pattern")
        hint = "patterns know no look-around and no back-references, and repeat within bounds" if pattern else "see json-schema.org"
        raise _refusal(why, path, hint) from None


def pointer(path: Any) -> str:
    """A JSON pointer (RFC 6901)."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in path)


def children(node: Document) -> Iterator[tuple[str, tuple[str | int, ...], Any]]:
    """The schemas right within one: keyword, path from here, schema."""
    for keyword, shape in _HOLDING.items():
        held = node.get(keyword)
        if held is None:
            continue
        if shape == "one":
            yield keyword, (keyword,), held
        elif shape == "list" and isinstance(held, list):
            for index, each in enumerate(held):
                yield keyword, (keyword, index), each
        elif shape == "map" and isinstance(held, dict):
            for name, each in held.items():
                yield keyword, (keyword, name), each


def _walk(document: Document) -> Iterator[tuple[str, Any]]:
    """Every schema by its pointer."""
    waiting: list[tuple[str, Any]] = [("", document)]
    count = 0
    while waiting:
        path, node = waiting.pop()
        count += 1
        if count > MOST_NODES:
            raise _refusal(f"a schema holds at most {MOST_NODES} others", path, "say it once in $defs, and refer to it")
        yield path, node
        if isinstance(node, dict):
            waiting.extend((path + pointer(way), each) for _, way, each in children(node))


def _check_node(path: str, node: Any, nodes: Mapping[str, Any]) -> None:
    if isinstance(node, bool):
        return
    if not isinstance(node, dict):
        raise _refusal("a schema is an object, true or false", path, "")
    for keyword, value in node.items():
        here = path + pointer((keyword,))
        if keyword not in _PLAIN and keyword not in _HOLDING and not keyword.startswith("x-"):
            instead = _INSTEAD.get(keyword, "is it misspelt? Notes of your own begin with x-")
            raise _refusal(f"the keyword {keyword!r} is not taken", here, instead)
        if keyword == "$schema" and value != DRAFT:
            raise _refusal("schemas are of JSON Schema 2020-12", here, f"write {DRAFT}, or leave it out")
        if keyword == "$ref" and _target(value) not in nodes:
            why = f"a $ref leads to a schema within the same text, not to {str(value)[:100]!r}"
            raise _refusal(why, here, "write #/$defs/NAME: nothing is fetched")
        named = keyword == "patternProperties" and isinstance(value, dict)
        for pattern in [value] if keyword == "pattern" else value if named else ():
            if isinstance(pattern, str) and len(pattern) > LONGEST_PATTERN:
                raise _refusal(f"a pattern has at most {LONGEST_PATTERN} characters", here, "use enum for long lists")


def _target(reference: object) -> str | None:
    if reference == "#":
        return ""
    return reference[1:] if isinstance(reference, str) and reference.startswith("#/") and "%" not in reference else None


class _Visits:
    """How often one value and the values above it may be looked at: a bound for the worst data of so many levels."""

    def __init__(self, nodes: Mapping[str, Any]) -> None:
        self._nodes = nodes
        self._known: dict[tuple[str, int], int] = {}
        self._open: set[str] = set()
        self.worst = ""

    def of(self, path: str, levels: int) -> int:
        """Level by level from below, so that nothing goes deeper than the schema itself."""
        for level in range(levels + 1):
            for each in self._nodes:
                if self._at(each, level) > MOST_VISITS:
                    self.worst = each
                    return MOST_VISITS + 1
        return self._at(path, levels)

    def _at(self, path: str, level: int) -> int:
        if (path, level) in self._known:
            return self._known[path, level]
        node = self._nodes[path]
        if path in self._open:
            raise _refusal("the schema refers to itself without going deeper into the data", path, "put a property between the two")
        self._open.add(path)
        total = 1
        if isinstance(node, dict):
            largest: dict[str, int] = {}
            for keyword, way, _ in children(node):
                child = path + pointer(way)
                if keyword in _IN_PLACE:
                    total += self._at(child, level)
                elif keyword in _BELOW and level:
                    total += self._at(child, level - 1)
                elif keyword in _ONE_BELOW and level:
                    largest[keyword] = max(largest.get(keyword, 0), self._at(child, level - 1))
            total += sum(largest.values())
            if "$ref" in node:
                total += self._at(_target(node["$ref"]) or "", level)
        self._open.discard(path)
        self._known[path, level] = min(total, MOST_VISITS + 1)
        return self._known[path, level]


def _refusal(why: str, path: str, hint: str) -> IncompatibleSchema:
    return IncompatibleSchema(f"{'at ' + path + ': ' if path else ''}{why}", hint=hint, path=path)
