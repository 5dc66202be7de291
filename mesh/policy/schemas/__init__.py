"""Schemas of events: which we take, whether data fits them, and which may follow which (decision 13)."""

from mesh.policy.schemas.compatibility import Rule, check_rule, filled, same
from mesh.policy.schemas.document import LARGEST, Schema, Unfit, take

__all__ = ["LARGEST", "Rule", "Schema", "Unfit", "check_rule", "filled", "same", "take"]
