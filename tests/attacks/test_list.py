"""The list of attacks against the tests: nothing untested in silence. Reads only source."""

import ast

from tests.attacks import ATTACKS
from tests.processes import ROOT

AT_LEAST = 25


def test_each_attack_is_a_test_and_each_test_an_attack() -> None:
    found = {
        (path.stem.removeprefix("test_"), node.name.removeprefix("test_"))
        for path in (ROOT / "tests" / "attacks").glob("test_*.py")
        if path.stem != "test_list"
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }
    listed = [(each.family, each.test) for each in ATTACKS]
    assert len(listed) == len(set(listed)) >= AT_LEAST
    assert set(listed) == found
    assert all(each.by and each.stopped and each.bites for each in ATTACKS)
    assert {who for each in ATTACKS for who in each.by.split(", ")} == {"agent", "host", "pair"}
