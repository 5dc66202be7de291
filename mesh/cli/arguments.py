"""The arguments of a tool as they are typed in a shell: `key=value`, `key:=JSON`, and a JSON object. Pure.

`key=value` is text. Where the tool's input schema is known and wants something else there, the value is read as JSON of that type.
Of several types that a schema allows, text is taken last: `days=3` is a number where a number may stand. The schema is only a guide to
what was meant: whether the arguments are right the tool decides, and says so better.

Source: JSON Schema 2020-12 (MCP's default dialect): `type`, `enum`, `const`, `anyOf`, `oneOf`, `allOf`, `$ref` within the document.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from mesh.errors import ConfigError

JSON_TYPES: Final = frozenset({"integer", "number", "boolean", "array", "object", "null"})
MOST_STEPS: Final = 32
"""Of `$ref` and `anyOf` that are followed: a schema may refer to itself."""

_MORE: Final = frozenset({"patternProperties", "$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "dependentSchemas"})
"""What of a schema may allow properties that `properties` does not name."""

Pair = tuple[str, str, bool]
"""Key, value as typed, and whether it is JSON whatever the schema says (`:=`)."""


def split(words: Iterable[str]) -> list[Pair]:
    """Read the words. ValueError that says what is wrong with which: that is a mistake of usage."""
    pairs: list[Pair] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key.removesuffix(":"):
            raise ValueError(f"{word!r} is not key=value")
        pairs.append((key.removesuffix(":"), value, key.endswith(":")))
    keys = [key for key, _, _ in pairs]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(f'{", ".join(twice)}: given twice; a list is written {twice[0]}:=\'["a", "b"]\'')
    return pairs


def read_object(text: str) -> dict[str, Any]:
    """The value of `--args`. Raises ValueError."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError('not a JSON object: {"key": value, …}')
    return value


def build(pairs: Sequence[Pair], schema: Mapping[str, Any] | None, start: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments object: `start` (from `--args`), and the pairs on top of it. Raises ConfigError for a value that cannot be read."""
    made = dict(start)
    for key, value, is_json in pairs:
        made[key] = _read_json(key, value) if is_json else _read_typed(key, value, schema)
    return made


def needs_schema(pairs: Sequence[Pair]) -> bool:
    """Whether it makes a difference to know the schema."""
    return any(not is_json for _, _, is_json in pairs)


def unknown(arguments: Iterable[str], schema: Mapping[str, Any] | None) -> list[tuple[str, str | None]]:
    """Which of these names the tool does not know, each with the one that it may have been meant to be. None where nothing is known of it,
    or where it takes others than it names."""
    properties = (schema or {}).get("properties")
    if schema is None or not isinstance(properties, Mapping) or schema.get("additionalProperties") or schema.keys() & _MORE:
        return []
    names = [each for each in arguments if each not in properties]
    return [(name, next(iter(get_close_matches(name, list(map(str, properties)), n=1)), None)) for name in names]


def _read_json(key: str, value: str) -> Any:
    try:
        return json.loads(value)
    except ValueError as error:
        raise ConfigError(f"the argument {key} is no JSON: {error}", hint=f"text is written {key}=TEXT, or {key}:='\"TEXT\"'") from None


def _read_typed(key: str, value: str, schema: Mapping[str, Any] | None) -> Any:
    properties = (schema or {}).get("properties")
    wanted = properties.get(key) if isinstance(properties, Mapping) else None
    if schema is None or not isinstance(wanted, Mapping):
        return value
    types = _types(wanted, schema)
    if not types & JSON_TYPES:
        return value
    text = value.lower() if "boolean" in types and value.lower() in ("true", "false") else value
    try:
        read = json.loads(text)
    except ValueError:
        read = value
    if _type_of(read) & types and not (isinstance(read, str) and read != value):
        return read
    if "string" in types:
        return value
    raise ConfigError(
        f"the argument {key} wants {' or '.join(sorted(types))}, not {value!r}",
        hint=f"`mesh tools` shows what the tool takes; {key}:=JSON sends any value as it is",
    )


def _types(schema: Mapping[str, Any], root: Mapping[str, Any]) -> frozenset[str]:
    """The names of the JSON types that a schema lets through, as far as it says. Empty: it does not say."""
    found: set[str] = set()
    waiting: list[Any] = [schema]
    for _ in range(MOST_STEPS):
        if not waiting:
            break
        each = waiting.pop()
        if not isinstance(each, Mapping):
            continue
        said = each.get("type")
        found |= {said} if isinstance(said, str) else {one for one in said if isinstance(one, str)} if isinstance(said, list) else set()
        values = each.get("enum") if isinstance(each.get("enum"), list) else [each["const"]] if "const" in each else []
        if said is None:
            for value in values or ():
                found |= _type_of(value)
        for key in ("anyOf", "oneOf", "allOf"):
            waiting += each[key] if isinstance(each.get(key), list) else []
        if isinstance(each.get("$ref"), str):
            waiting.append(_follow(each["$ref"], root))
    return frozenset(found)


def _follow(reference: str, root: Mapping[str, Any]) -> Any:
    """What a reference within the document points to; None for any other."""
    if not reference.startswith("#/"):
        return None
    here: Any = root
    for step in reference[2:].split("/"):
        here = here.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(here, Mapping) else None
    return here


def _type_of(value: Any) -> frozenset[str]:
    match value:
        case None:
            return frozenset({"null"})
        case bool():
            return frozenset({"boolean"})
        case int():
            return frozenset({"integer", "number"})
        case float():
            return frozenset({"number", "integer"} if value.is_integer() else {"number"})
        case str():
            return frozenset({"string"})
        case list():
            return frozenset({"array"})
        case _:
            return frozenset({"object"})
