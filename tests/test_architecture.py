"""The tree keeps its own rules: who imports whom, what each file says of itself, and what may not stand in it."""

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from importlinter.cli import lint_imports

ROOT: Final = Path(__file__).parent.parent

MAX_LINES: Final = 300
"""More than this and a module is two modules, or its head says why not, in a sentence with LONG_BECAUSE."""

LONG_BECAUSE: Final = "long because"

FOREIGN: Final = {
    "a package registry": re.compile(r"\b(?:pypi|pythonhosted|npmjs|yarnpkg|proxy\.golang)\.(?:org|com)\b|\bindex-url\b"),
    "somebody's machine": re.compile(r"(?<![\w.$}-])/(?:root|home|work|Users)/\w"),
}
"""What is true of one machine only. A clone has to work where neither these hosts nor these paths are."""


def tracked_files() -> list[Path]:
    """The files of the tree: committed ones, and new ones that git does not ignore."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


def modules() -> Iterator[Path]:
    return (path for path in tracked_files() if path.suffix == ".py")


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_go_down_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """The contracts stand in pyproject.toml; what breaks one is in the captured output."""
    monkeypatch.chdir(ROOT)
    assert lint_imports(no_cache=True, no_logo=True) == 0


def test_every_module_says_what_it_is() -> None:
    silent = [name(path) for path in modules() if not ast.get_docstring(ast.parse(path.read_bytes()))]
    assert not silent, "a module begins with a docstring that says what it is for"


def test_modules_are_short_or_say_why_not() -> None:
    long = {}
    for path in modules():
        lines = path.read_text().count("\n")
        if lines > MAX_LINES and LONG_BECAUSE not in (ast.get_docstring(ast.parse(path.read_bytes())) or ""):
            long[name(path)] = lines
    assert not long, f"over {MAX_LINES} lines: split it, or write {LONG_BECAUSE!r} and the reason into its docstring"


def test_the_tree_names_no_machine() -> None:
    found = []
    for path in tracked_files():
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), start=1):
            found += [f"{name(path)}:{number}: {what}: {hit[0]}" for what, pattern in FOREIGN.items() if (hit := pattern.search(line))]
    assert not found


@pytest.mark.parametrize("script", ["scripts/start", "scripts/test", "scripts/check", ".ci/run"])
def test_scripts_can_be_run(script: str) -> None:
    path = ROOT / script
    assert os.access(path, os.X_OK)
    assert path.read_text().startswith("#!/usr/bin/env bash\n")
