"""Who may be on the mesh: keys and credentials in the state directory, and what of them the broker is told.

from mesh.identity import AuthenticationService
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mesh.identity.service import AuthenticationService

__all__ = ["AuthenticationService"]


def __getattr__(name: str) -> Any:
    """`AuthenticationService` when it is asked for: whoever needs one of the modules here needs not all of them."""
    if name == "AuthenticationService":
        from mesh.identity.service import AuthenticationService

        return AuthenticationService
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
