"""Which schema may follow which: a topic's rule, judged for all data there could be.

| rule       | each new version                                                | so that                                     |
|------------|-----------------------------------------------------------------|---------------------------------------------|
| `backward` | allows all data that the version before allows                  | who knows the new one can read old events     |
| `forward`  | allows no data that the version before does not                 | who knows the old one can read new events     |
| `full`     | both                                                            |                                             |
| `none`     | may say anything                                                |                                             |

With `_transitive` after it, each version before counts, not only the last.

The question "does one schema allow all that another does" is answered by the library (`CanonicalSchema.covers`): yes, no, or unknown. Only
"yes" passes. "Unknown" is a refusal of its own kind, which says so: what can be judged are type, enum, const, the bounds of numbers, texts,
lists and maps, required, properties, additionalProperties, items, prefixItems, allOf, anyOf and `$ref`; of patterns, oneOf, not, if,
contains, dependent… and propertyNames much, and always what did not change. `tests/test_compatibility.py` holds each "yes" against data.

An open schema (without `additionalProperties: false`) allows each member that it does not name to be anything. So naming one later is no
backward compatible change: that surprises people, and is true.

A version may say `defaults`: what members of the data get that an older event lacks. The old version is then judged with them filled in.
What a conversion in CEL yields cannot be judged, so it goes with `none` alone; whatever comes out is validated when it is read.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, Final

from mesh.errors import IncompatibleSchema
from mesh.policy.schemas.document import Document, patterns, pointer


class Rule(StrEnum):
    NONE = "none"
    BACKWARD = "backward"
    FORWARD = "forward"
    FULL = "full"
    BACKWARD_TRANSITIVE = "backward_transitive"
    FORWARD_TRANSITIVE = "forward_transitive"
    FULL_TRANSITIVE = "full_transitive"

    @property
    def backward(self) -> bool:
        return self.startswith(("backward", "full"))

    @property
    def forward(self) -> bool:
        return self.startswith(("forward", "full"))

    @property
    def transitive(self) -> bool:
        return self.endswith("transitive")

    def loosens(self, before: "Rule") -> bool:
        """Whether it promises less than another one in some respect."""
        return any(getattr(before, each) and not getattr(self, each) for each in ("backward", "forward", "transitive"))


def check_rule(rule: Rule, new: Document, before: Mapping[int, Document], defaults: Mapping[str, Any] | None = None) -> None:
    """Whether `new` may follow the versions `before`, by number. Raises IncompatibleSchema: with the `version` and the `path` where it is
    known."""
    versions = sorted(before) if rule.transitive else sorted(before)[-1:]
    for version in reversed(versions):
        old = before[version]
        if rule.backward:
            _hold(new, filled(old, defaults or {}), f"version {version} allows what the new one does not", f"{rule} compatible", version)
        if rule.forward:
            _hold(old, new, f"the new version allows what version {version} does not", f"{rule} compatible", version)


def filled(document: Document, defaults: Mapping[str, Any]) -> Document:
    """What a schema allows, once the members that an object lacks are filled in. Raises IncompatibleSchema where that cannot be said."""
    if not defaults:
        return document
    strange = document.keys() - FILLABLE
    if strange:
        name = min(strange)
        raise IncompatibleSchema(
            f"it cannot be judged what defaults do beside {name!r} at the top of the version before",
            hint="register it with the rule none, or write required and properties at the top",
            path=pointer((name,)),
        )
    rest = document.get("additionalProperties", True)
    properties = dict(document.get("properties", {}))
    for name, value in defaults.items():
        known = properties.get(name, rest)
        properties[name] = {"const": value} if known is False else {"anyOf": [known, {"const": value}]}
    required = [*document.get("required", ()), *(name for name in defaults if name not in document.get("required", ()))]
    return {**document, "properties": properties, "required": required}


FILLABLE: Final = frozenset(
    (
        "$schema",
        "$defs",
        "$comment",
        "type",
        "properties",
        "required",
        "additionalProperties",
        "title",
        "description",
        "examples",
        "default",
    )
)
"""What may stand at the top of a schema whose defaults are judged."""


def same(one: Any, other: Any) -> bool:
    """Whether two texts of JSON say the same. For Python 1 is True."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def covers(wide: Document, narrow: Document) -> str:
    """Whether `wide` allows all that `narrow` allows: `yes`, `no`, or `unknown`."""
    import jsonschema_rs

    as_canonical = partial(jsonschema_rs.canonicalize, draft=jsonschema_rs.Draft202012, pattern_options=patterns(), offline=True)
    try:
        return str(as_canonical(wide).covers(as_canonical(narrow)))
    except Exception:  # its errors are classes that it does not export
        return "unknown"


def _hold(wide: Document, narrow: Document, what: str, promise: str, version: int) -> None:
    if same(wide, narrow):
        return
    said = covers(wide, narrow)
    if said == "yes":
        return
    path, why = _where(wide, narrow)
    if said == "no":
        message = f"it is not {promise}: {what}{f', at {path}' if path else ''}{f' ({why})' if why else ''}"
        hint = (
            "take nothing away, give defaults to what is newly required, and begin with additionalProperties: false to name members later"
        )
    else:
        message = f"it cannot be shown to be {promise}{f', at {path}' if path else ''}{f' ({why})' if why else ''}"
        hint = "say it with type, enum, bounds, properties, required and additionalProperties; or register it with the rule none"
    raise IncompatibleSchema(message, hint=hint, path=path, version=version, judged=said == "no")


def _where(wide: Any, narrow: Any, root: tuple[Any, Any] | None = None, path: tuple[str | int, ...] = ()) -> tuple[str, str]:
    """The deepest member at which it does not hold, and what differs there."""
    tops = root or (wide, narrow)
    if isinstance(wide, dict) and isinstance(narrow, dict):
        for way, one, other in _pairs(wide, narrow):
            if not same(one, other) and covers(_alone(one, tops[0]), _alone(other, tops[1])) != "yes":
                return _where(one, other, tops, (*path, *way))
        differing = [key for key in (*wide, *narrow) if key not in ("properties", "$defs") and not same(wide.get(key), narrow.get(key))]
        for key in dict.fromkeys(differing):
            return pointer(path), f"{key} {_short(narrow.get(key))} against {_short(wide.get(key))}"
    return pointer(path), ""


def _pairs(wide: Document, narrow: Document) -> Iterator[tuple[tuple[str | int, ...], Any, Any]]:
    for name, one in (wide.get("properties") or {}).items():
        if name in (narrow.get("properties") or {}):
            yield (name,), one, narrow["properties"][name]
    if "items" in wide and "items" in narrow:
        yield ("items",), wide["items"], narrow["items"]


def _alone(part: Any, top: Any) -> Document:
    """A part as a document of its own, which still knows the definitions."""
    document = part if isinstance(part, dict) else {"allOf": [part]}
    return {**document, "$defs": top["$defs"]} if isinstance(top, dict) and "$defs" in top else document


def _short(value: Any) -> str:
    if value is None:
        return "(not said)"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(map(str, value[:6])) + ("…]" if len(value) > 6 else "]")
    return str(value)[:80]
