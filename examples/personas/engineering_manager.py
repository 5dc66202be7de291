"""The engineering manager: reads Python source, and says what is wrong with it. Nothing that it is given is run."""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from importlib.metadata import packages_distributions, version
from typing import Annotated, Final, Literal

from pydantic import BaseModel, Field

from examples.personas.persona import READS, make_persona

LONGEST_FUNCTION: Final = 50
"""Lines."""

MOST_BRANCHES: Final = 10
"""Of one function: what is above is hard to test."""

DANGEROUS: Final = {"eval", "exec", "os.system", "pickle.load", "pickle.loads", "marshal.loads", "yaml.load", "tempfile.mktemp"}

Code = Annotated[str, Field(max_length=200_000, description="Python source")]

server = make_persona("engineering-manager")


class Finding(BaseModel):
    line: int
    severity: Literal["error", "warning", "advice"]
    text: str


class Review(BaseModel):
    """`approved`: there is no error and no warning."""

    approved: bool
    lines: int
    functions: int = 0
    classes: int = 0
    findings: list[Finding] = []


class Dependencies(BaseModel):
    """Imported packages: those of Python itself, those that are installed here with their versions, and those that are not."""

    standard: list[str]
    installed: dict[str, str]
    missing: list[str]


@server.tool(annotations=READS)
def code_review(code: Code, language: Literal["python"] = "python") -> Review:
    """Compile Python source without running it, and look for what reviewers complain about."""
    lines = len(code.splitlines())
    try:
        tree = ast.parse(code)
        compile(tree, "<review>", "exec")  # finds what the grammar allows and Python does not: `return` outside of a function
    except SyntaxError as problem:
        return Review(approved=False, lines=lines, findings=[Finding(line=problem.lineno or 1, severity="error", text=str(problem.msg))])
    except (ValueError, RecursionError, MemoryError) as problem:
        return Review(
            approved=False, lines=lines, findings=[Finding(line=1, severity="error", text=str(problem) or "it is nested too deep")]
        )
    nodes = list(ast.walk(tree))
    findings = sorted((found for node in nodes for found in (*_style(node), *_danger(node))), key=lambda found: found.line)
    return Review(
        approved=all(found.severity == "advice" for found in findings),
        lines=lines,
        functions=sum(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes),
        classes=sum(isinstance(node, ast.ClassDef) for node in nodes),
        findings=findings,
    )


@server.tool(annotations=READS)
def security_scanner(code: Code) -> list[Finding]:
    """Find calls that run what others wrote: eval, exec, shells, unpickling."""
    return [found for node in ast.walk(ast.parse(code)) for found in _danger(node)]


@server.tool(annotations=READS)
def dependency_check(code: Code) -> Dependencies:
    """What a module imports, and whether it is there."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {each.name.partition(".")[0] for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    known = packages_distributions()
    others = sorted(names - sys.stdlib_module_names)
    return Dependencies(
        standard=sorted(names & sys.stdlib_module_names),
        installed={name: version(known[name][0]) for name in others if name in known},
        missing=[name for name in others if name not in known],
    )


@server.tool(annotations=READS)
def technical_debt_tracker(code: Code) -> list[Finding]:
    """Comments that promise something: TODO, FIXME, HACK, XXX."""
    comments = (token for token in tokenize.generate_tokens(io.StringIO(code).readline) if token.type == tokenize.COMMENT)
    debts = (token for token in comments if re.search(r"\b(TODO|FIXME|HACK|XXX)\b", token.string))
    return [Finding(line=token.start[0], severity="advice", text=token.string.lstrip("# ")) for token in debts]


def _style(node: ast.AST) -> Iterator[Finding]:
    if isinstance(node, ast.ExceptHandler) and node.type is None:
        yield Finding(line=node.lineno, severity="warning", text="a bare except catches KeyboardInterrupt, too")
    if isinstance(node, ast.Compare) and any(
        isinstance(op, ast.Eq | ast.NotEq) and isinstance(right, ast.Constant) and right.value is None
        for op, right in zip(node.ops, node.comparators, strict=True)
    ):
        yield Finding(line=node.lineno, severity="warning", text="compare with None by `is`")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        defaults = [each for each in (*node.args.defaults, *node.args.kw_defaults) if each is not None]
        if any(isinstance(each, ast.List | ast.Dict | ast.Set) for each in defaults):
            yield Finding(line=node.lineno, severity="warning", text=f"{node.name} has a default that all its calls share")
        if not node.name.startswith("_") and ast.get_docstring(node) is None:
            yield Finding(line=node.lineno, severity="advice", text=f"{node.name} has no docstring")
        if (length := (node.end_lineno or node.lineno) - node.lineno + 1) > LONGEST_FUNCTION:
            yield Finding(line=node.lineno, severity="advice", text=f"{node.name} has {length} lines")
        branches = sum(isinstance(each, ast.If | ast.For | ast.While | ast.ExceptHandler | ast.BoolOp) for each in ast.walk(node))
        if branches > MOST_BRANCHES:
            yield Finding(line=node.lineno, severity="advice", text=f"{node.name} has {branches} branches")


def _danger(node: ast.AST) -> Iterator[Finding]:
    if isinstance(node, ast.Call):
        name = ast.unparse(node.func)
        shell = any(each.arg == "shell" and isinstance(each.value, ast.Constant) and each.value.value is True for each in node.keywords)
        if name in DANGEROUS or shell:
            yield Finding(line=node.lineno, severity="warning", text=f"{name} runs what others may have written")
