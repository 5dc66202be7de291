"""Who may do what: roles as data (`model`), compiled into the broker's permissions (`compile`), and explained from these (`explain`).

There is one table. The broker enforces the permissions that `compile_scope` makes; `explain` and the bridges' own checks match the same
permissions, by the broker's own rules (`Permissions`).
"""

from mesh.policy.rights.compile import Grant, compile_scope, expand, grants_of
from mesh.policy.rights.explain import ScopeChange, Verdict, diff, explain
from mesh.policy.rights.matching import matches
from mesh.policy.rights.model import (
    AGENT,
    READY_MADE,
    Kind,
    Permissions,
    Policy,
    Power,
    Role,
    Rule,
    memberships_of,
    parse_rule,
    scope_name,
    scope_of,
)

__all__ = [
    "AGENT",
    "READY_MADE",
    "Grant",
    "Kind",
    "Permissions",
    "Policy",
    "Power",
    "Role",
    "Rule",
    "ScopeChange",
    "Verdict",
    "compile_scope",
    "diff",
    "expand",
    "explain",
    "grants_of",
    "matches",
    "memberships_of",
    "parse_rule",
    "scope_name",
    "scope_of",
]
