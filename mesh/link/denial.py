"""What a caller is told that may not do what it asked for: by its own look at its rights, or by the broker, in the same words.

An action is named in the words of `mesh auth explain` (`mesh.policy.rights.explain`), which are those of a role's rules: `call time/now`,
`publish build.done`. So the command in a hint can be typed as it stands there.
"""

import shlex
from typing import TYPE_CHECKING

from mesh.errors import Denied, Refused
from mesh.policy.rights import Kind, Rule
from mesh.subjects import ANY, OPEN_STREAM, Subjects, unescape

if TYPE_CHECKING:
    from mesh.link.connection import Connection

_KINDS = {"tools/call": Kind.TOOL, "prompts/get": Kind.PROMPT, OPEN_STREAM: Kind.STREAM}


def check(connection: "Connection", subject: str, caller: str, action: str) -> None:
    """Raises Denied where the broker is known not to take `subject` from us."""
    if connection.rights is not None and not connection.rights.may_publish(subject):
        raise denied(subject, caller, action)


def check_answers(connection: "Connection", subjects: Subjects, who: str, name: str) -> None:
    """Raises Denied where the broker is known not to bring us what is addressed to `name`."""
    subject = subjects.calls_to(name, ANY)
    if connection.rights is not None and not connection.rights.may_subscribe(subject):
        role = "agent" if name == who else name
        raise Denied(
            f"{who!r} may not answer to {name!r}: only who holds the role {role!r} may",
            hint=f"{hint(who, f'answer {name}')}; `mesh auth issue {shlex.quote(who)} --role …` gives them, with all that it has",
            subject=subject,
        )


def action_of(target: str, method: str, name: str | None) -> str:
    """What is asked for: `call time/now`, `call notes/prompt:weekly`."""
    return f"call {target}" if name is None else f"call {Rule(target, _KINDS.get(method, Kind.RESOURCE), name)}"


def hearing(subjects: Subjects, filter: str, who: str) -> str:
    """What it is that one hears by a filter: `subscribe build.*`; broadcasts come to those who answer."""
    family, *tokens = filter.removeprefix(subjects.root).split(".")
    try:
        match family, tokens:
            case "event", [_, _, *words] if words:
                return f"subscribe {'.'.join(word if word in ('*', '>') else unescape(word) for word in words)}"
            case "cast", [_, _, to]:
                return f"answer {who if to in ('*', ANY) else unescape(to)}"
    except Refused:
        pass
    return f"nats sub {filter}"


def denied(subject: str, caller: str, action: str) -> Denied:
    return Denied(f"{caller!r} may not {action}: no rule of its roles allows it", hint=hint(caller, action), subject=subject)


def refused_by_broker(subject: str, caller: str) -> Denied:
    """By the broker, where all that is known is the subject."""
    return Denied(f"the broker does not let {caller!r} publish to {subject}", hint=hint(caller, f"nats pub {subject}"), subject=subject)


def hint(caller: str, action: str) -> str:
    return f"`mesh auth explain {shlex.quote(caller)} {shlex.quote(action)}` says which roles would"
