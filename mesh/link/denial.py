"""What a caller is told that may not do what it asked for: by its own look at its rights, or by the broker, in the same words."""

from mesh.errors import Denied
from mesh.link.connection import Connection
from mesh.subjects import ANY, Subjects


def check(connection: Connection, subject: str, caller: str, action: str) -> None:
    """Raises Denied where the broker is known not to take `subject` from us. `action` as in `mesh auth explain`: `call time/now`."""
    if connection.rights is not None and not connection.rights.may_publish(subject):
        raise denied(subject, caller, action)


def check_answers(connection: Connection, subjects: Subjects, who: str, name: str) -> None:
    """Raises Denied where the broker is known not to bring us what is addressed to `name`."""
    subject = subjects.calls_to(name, ANY)
    if connection.rights is not None and not connection.rights.may_subscribe(subject):
        role = "agent" if name == who else name
        raise Denied(
            f"{who!r} may not answer to {name!r}",
            hint=f"only who holds the role {role!r} may: `mesh auth issue {who} --role …`, with all of its roles",
            subject=subject,
        )


def action_of(target: str, method: str, name: str | None) -> str:
    """What is asked for, in the words of a policy: `call time/now`, `call notes/prompt:weekly`."""
    kind = {"tools/call": "", "prompts/get": "prompt:"}.get(method, "resource:")
    return f"call {target}" if name is None else f"call {target}/{kind}{name}"


def denied(subject: str, caller: str, action: str) -> Denied:
    return Denied(
        f"{caller!r} may not {action}: no rule of its roles allows it",
        hint=f"`mesh auth explain {caller} '{action}'` says which roles would",
        subject=subject,
    )
