"""Expressions in CEL: compiled and checked when they are set up, bounded when they run (decision 13)."""

from mesh.policy.expressions.program import DEEPEST, LONGEST, Program, Variables, measure

__all__ = ["DEEPEST", "LONGEST", "Program", "Variables", "measure"]
