"""What a caller is told that may not do what it asked for: by its own look at its rights, or by the broker, in the same words."""

from mesh.errors import Denied
from mesh.link.connection import Connection


def check(connection: Connection, subject: str, caller: str, action: str) -> None:
    """Raises Denied where the broker is known not to take `subject` from us. `action` as in `mesh auth explain`: `call time/now`."""
    if connection.rights is not None and not connection.rights.may_publish(subject):
        raise denied(subject, caller, action)


def denied(subject: str, caller: str, action: str) -> Denied:
    return Denied(
        f"{caller!r} may not {action}: no rule of its roles allows it",
        hint=f"`mesh auth explain {caller} '{action}'` says which roles would",
        subject=subject,
    )
