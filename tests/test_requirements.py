"""The list of requirements against the tests: nothing unproven in silence, no proof of what nobody asked for. Reads only source."""

import ast
from collections import defaultdict
from collections.abc import Iterator

import pytest
from mcp_types import methods

from tests.processes import ROOT
from tests.requirements import (
    CLIENT_NOTIFICATION,
    CLIENT_REQUEST,
    HANDSHAKE,
    MESSAGES,
    MODERN,
    REQUIREMENTS,
    REVISIONS,
    SERVER_NOTIFICATION,
    SERVER_REQUEST,
)


def proving() -> Iterator[tuple[str, list[str]]]:
    """The node id of each test, and the keys that its marker names."""
    for path in sorted((ROOT / "tests").glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                marks = [
                    each for each in node.decorator_list if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.proves"
                ]
                yield f"tests/{path.name}::{node.name}", [ast.literal_eval(key) for each in marks for key in each.args]


def test_each_key_stands_once() -> None:
    keys = [each.key for each in REQUIREMENTS]
    assert sorted(set(keys)) == sorted(keys)
    assert all(each.place for each in REQUIREMENTS)


def test_each_requirement_is_proved_or_known_to_be_missing() -> None:
    proofs: dict[str, list[str]] = defaultdict(list)
    nodes = dict(proving())
    for node, keys in nodes.items():
        for key in keys:
            proofs[key].append(node)
    for each in REQUIREMENTS:
        proofs[each.key] += each.proofs
    assert not set(proofs) - {each.key for each in REQUIREMENTS}, "a proof of what is not in the list"
    assert not {node for found in proofs.values() for node in found} - set(nodes), "a proof by a test that is not there"
    assert not [each.key for each in REQUIREMENTS if not proofs[each.key] and not each.gap], "nothing proves it"
    assert not [each.key for each in REQUIREMENTS if proofs[each.key] and each.gap], "what is proved is no gap"


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_the_table_is_the_specifications(era: str) -> None:
    for kind, table in (
        (CLIENT_REQUEST, methods.CLIENT_REQUESTS),
        (SERVER_REQUEST, methods.SERVER_REQUESTS),
        (CLIENT_NOTIFICATION, methods.CLIENT_NOTIFICATIONS),
        (SERVER_NOTIFICATION, methods.SERVER_NOTIFICATIONS),
    ):
        wanted = {method for method, version in table if version == REVISIONS[era]}
        assert {each.method for each in MESSAGES if each.kind == kind and era in each.eras} == wanted, kind
