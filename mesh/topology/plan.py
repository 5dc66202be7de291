"""What has to be done so that a broker has the declared topology: a pure comparison, no I/O (`mesh.link.reconcile` reads and applies).

Theory of operation
-------------------
`plan` compares specs with the configs that the broker echoes, and answers with one action a stream and consumer. Nothing is deleted
unless `prune` asks for it. What the server cannot change is a conflict, with what a person can do about it.

Trap answered: a server that is too old ignores a setting it does not know, without an error. So what the server echoes after a
change is compared once more, by the same `differences`: what differs then was ignored.

Only what a spec declares is compared. The server leaves out of its echo what is off or empty (`false`, `0`, `""`), and adds values
of its own (`metadata`, `duplicate_window`, …); neither is a difference.

Source: nats-server's `configUpdateCheck` (streams) and `checkNewConsumerConfig`; tests/test_topology.py asks a real server which
settings it refuses to change.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from mesh.topology.declared import Topology
from mesh.topology.specs import ConsumerSpec, StreamSpec


class Kind(StrEnum):
    """What is to be done about one stream or consumer."""

    CREATE = "create"
    UPDATE = "update"
    UNCHANGED = "unchanged"
    CONFLICT = "conflict"
    """It differs in something that the server cannot change."""
    UNDECLARED = "undeclared"
    DELETE = "delete"


@dataclass(frozen=True, slots=True)
class Difference:
    """One setting that is not as declared. Times are nanoseconds, as the server writes them."""

    setting: str
    actual: Any
    declared: Any


@dataclass(frozen=True, slots=True)
class Action:
    """One line of the plan. `name` is the stream's name, or `{stream}/{consumer}`; `spec` is None for what nobody declared."""

    kind: Kind
    name: str
    spec: StreamSpec | ConsumerSpec | None = None
    differences: tuple[Difference, ...] = ()
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Actual:
    """What a broker has: configs as it echoes them, by stream, and by `(stream, consumer)` for the declared consumers."""

    streams: Mapping[str, Mapping[str, Any]]
    consumers: Mapping[tuple[str, str], Mapping[str, Any]]


_FIXED: Final = {
    StreamSpec: frozenset({"name", "storage", "retention"}),
    ConsumerSpec: frozenset(
        {"deliver_policy", "opt_start_seq", "opt_start_time", "ack_policy", "replay_policy", "durable_name", "mem_storage"}
    ),
}
"""Settings that the server refuses to change once a stream or consumer exists."""

_ONE_WAY: Final = frozenset({"deny_delete", "deny_purge", "allow_msg_ttl"})
"""Settings of a stream that can be switched on later, but never off."""


def plan(declared: Topology, actual: Actual, *, prune: bool = False) -> tuple[Action, ...]:
    """What makes a broker that has `actual` have `declared`: streams first, then their consumers, then what nobody declared."""
    streams = declared.all_streams()
    actions = [_action(spec.name, spec, actual.streams.get(spec.name)) for spec in streams]
    actions += [_action(f"{spec.stream}/{spec.name}", spec, actual.consumers.get((spec.stream, spec.name))) for spec in declared.consumers]
    undeclared = sorted(actual.streams.keys() - {spec.name for spec in streams})
    kind, advice = (Kind.DELETE, "") if prune else (Kind.UNDECLARED, "nothing is done to it")
    return (*actions, *(Action(kind, name, advice=advice) for name in undeclared))


def differences(spec: StreamSpec | ConsumerSpec, config: Mapping[str, Any]) -> tuple[Difference, ...]:
    """The settings of `spec` that `config`, as a server echoes it, does not have. After an update: those that the server ignored."""
    return tuple(
        Difference(setting, config.get(setting), wanted)
        for setting, wanted in spec.config().items()
        if _normal(setting, wanted) != _normal(setting, config.get(setting))
    )


def _action(name: str, spec: StreamSpec | ConsumerSpec, config: Mapping[str, Any] | None) -> Action:
    if config is None:
        return Action(Kind.CREATE, name, spec)
    found = differences(spec, config)
    stuck = [difference.setting for difference in found if _is_fixed(spec, difference)]
    if stuck:
        return Action(Kind.CONFLICT, name, spec, found, _advice(spec, stuck))
    return Action(Kind.UPDATE if found else Kind.UNCHANGED, name, spec, found)


def _is_fixed(spec: StreamSpec | ConsumerSpec, difference: Difference) -> bool:
    return difference.setting in _FIXED[type(spec)] or (difference.setting in _ONE_WAY and bool(difference.actual))


def _advice(spec: StreamSpec | ConsumerSpec, stuck: Iterable[str]) -> str:
    settings = ", ".join(stuck)
    if isinstance(spec, ConsumerSpec):
        return (
            f"the server cannot change {settings} of a consumer: remove it (`nats consumer rm {spec.stream} {spec.name}`), and apply again"
        )
    return (
        f"the server cannot change {settings} of a stream: save what it holds (`nats stream backup {spec.name} DIR`), "
        f"remove it (`nats stream rm {spec.name}`), and apply again"
    )


def _normal(setting: str, value: Any) -> Any:
    """A value in the one form in which the declared and the echoed are compared."""
    if setting in ("subject_transform", "republish") and value:
        return value.get("src"), value.get("dest"), bool(value.get("headers_only"))  # the echo may have more members
    if setting == "metadata":
        return {key: each for key, each in (value or {}).items() if not key.startswith("_nats.")}  # the server adds some of its own
    if setting in ("subjects", "filter_subjects"):
        return sorted(value or ())
    if setting == "opt_start_time":
        return _without_trailing_zeros(value or "")
    return value or None  # absent, false, 0, "", [] and null are one and the same


def _without_trailing_zeros(time: str) -> str:
    return time.rstrip("Z").rstrip("0").rstrip(".") if "." in time else time.rstrip("Z")
