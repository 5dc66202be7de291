"""Names of an aggregate: `agent__tool`. Pure.

Hosts and models take `[A-Za-z0-9_-]`, at most 64 characters, so not every pair can be written as it is. The rules, so that nobody can take
another's name by coming to the mesh:

- A pair that can be written as it is, is: both parts are of these characters, and the agent's has no `__` and no `_` at its end. Such a
  name can be read in one way only, so it is this pair's for good, whoever else comes.
- Another character in the tool's part becomes `_`. Only the same agent's tools can meet there; those that do get a hash.
- A pair whose agent's part must change, or that is too long, always gets a hash: `{agent}__{tool}_{hash of the pair}`, cut to fit.
- Where even so two names are equal (somebody has sought it), each gets a longer hash, and the bare name is nobody's.

So a name depends on the pair and on its agent's own list, never on the order in which agents came.
"""

import hashlib
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

LONGEST: Final = 64
"""What the strictest hosts take for the name of a tool."""

JOINT: Final = "__"

_plain: Final = re.compile(r"[A-Za-z0-9_-]+").fullmatch
_foreign: Final = re.compile(r"[^A-Za-z0-9_-]")

Pair = tuple[str, str]
"""An agent and its own name for a thing."""


@dataclass(frozen=True, slots=True)
class Collision:
    """Pairs that wanted one name, and what they are called instead."""

    wanted: str
    given: tuple[tuple[Pair, str], ...]


def plain(pair: Pair) -> str | None:
    """The name of a pair that can be written as it is, else None."""
    agent, own = pair
    name = f"{agent}{JOINT}{own}"
    if len(name) <= LONGEST and _plain(agent) and _plain(own) and JOINT not in agent and not agent.endswith("_"):
        return name
    return None


def read(name: str) -> Pair | None:
    """The pair that is written as it is in `name`; None where no pair is."""
    agent, joint, own = name.partition(JOINT)
    return (agent, own) if joint and plain((agent, own)) == name else None


def give(pairs: Iterable[Pair]) -> tuple[dict[Pair, str], tuple[Collision, ...]]:
    """A name for each pair, all different, and the collisions there were. The same pairs get the same names in any order."""
    wanted: dict[Pair, str] = {pair: plain(pair) or _wanted(pair) for pair in pairs}
    names = dict(wanted)
    collisions = []
    for digits in (8, 24):
        holders: defaultdict[str, list[Pair]] = defaultdict(list)
        if max(Counter(names.values()).values(), default=0) < 2:
            break
        for pair, name in names.items():
            holders[name].append(pair)
        for name, group in holders.items():
            if len(group) > 1:
                # One that can be written as it is keeps its name from its own agent's others, and from nobody's hash.
                keeper = [pair for pair in group if plain(pair) == name and digits == 8]
                for pair in group:
                    if pair not in keeper:
                        names[pair] = _hashed(pair, digits)
                collisions.append((name, group))
    told = (Collision(name, tuple(sorted((pair, names[pair]) for pair in group))) for name, group in collisions)
    return names, tuple(sorted(told, key=lambda each: each.wanted))


def _wanted(pair: Pair) -> str:
    agent, own = pair
    name = f"{agent}{JOINT}{_foreign.sub('_', own) or '_'}"
    if len(name) <= LONGEST and _plain(agent) and JOINT not in agent and not agent.endswith("_"):
        return name
    return _hashed(pair, 8)


def _hashed(pair: Pair, digits: int) -> str:
    agent, own = (_foreign.sub("_", part) for part in pair)
    room = LONGEST - digits - 1 - len(JOINT)
    agent = agent[: max(room - len(own), room // 3)].strip("_") or "agent"
    digest = hashlib.sha256(json.dumps(pair).encode()).hexdigest()[:digits]
    return f"{agent}{JOINT}{own[: room - len(agent)]}_{digest}"
