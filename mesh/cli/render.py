"""Text for people and JSON for programs, from the snapshots of mesh.admin. It decides nothing.

Names, descriptions and results come from other processes. What they say to a terminal is said through `plain`, or they could move its
cursor, change its title or hide what stands above; and through `Text`, or Rich would take their brackets for markup.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

WIDE: Final = 240
"""Columns where no terminal says how many there are: a pipe or a file takes whole rows."""

_STATES: Final = frozenset({"state", "outcome", "action", "result"})
"""Columns whose words have colours."""

_UNITS: Final = ((86_400.0, "d"), (3_600.0, "h"), (60.0, "m"))

STYLES: Final = {
    "up": "green", "ok": "green", "ready": "green", "create": "green",
    "degraded": "yellow", "warn": "yellow", "tool_error": "yellow", "update": "yellow", "cancelled": "yellow", "open": "cyan",
    "lost": "red", "fail": "red", "error": "red", "failed": "red", "conflict": "red", "delete": "red",
}  # fmt: skip
"""Colours of words in such columns. What is not here is printed as it is."""


def console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else WIDE
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def print_json(value: Any) -> None:
    """One line of JSON on stdout, at once: whoever reads a pipe waits for it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if not _encodable(text):  # a lone surrogate, or a terminal that knows no Unicode: escaped, it is the same JSON
        text = json.dumps(value, default=str)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_text(text: str, *, stderr: bool = False) -> None:
    """As it is into a file or a pipe, harmless on a terminal."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        text = plain(text, lines=True)
    if not _encodable(text):
        text = text.encode(stream.encoding, "backslashreplace").decode(stream.encoding)
    stream.write(text + "\n")
    stream.flush()


def _encodable(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return False
    return True


def plain(text: str, *, lines: bool = False) -> str:
    """`text` without control characters. `lines`: newlines and tabs may stay."""
    if text.isprintable():
        return text
    keep = "\n\t" if lines else ""
    return "".join(each if each.isprintable() or each in keep else ("�" if lines else " ") for each in text)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> "Table":
    """A table without lines. Columns in `right` hold numbers."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        short = column in right or column in _STATES or column == "instance"
        made.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=short)
    for row in rows:
        cells = zip(columns, map(str, row), strict=True)
        made.add_row(*(Text(plain(cell), style=STYLES.get(cell, "") if column in _STATES else "") for column, cell in cells))
    return made


def age(seconds: float) -> str:
    """`4.2s`, `3m`, `5h`, `2d`."""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:.1f}s"


def first_line(text: str) -> str:
    return text.strip().partition("\n")[0]


def size(count: float) -> str:
    """`512 B`, `1.5 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def content_text(result: Mapping[str, Any]) -> str:
    """A tool's result for a person: its text blocks; what is not text is named; structured data only where there is no block at all."""
    blocks = result.get("content")
    lines = [_block(block) for block in blocks if isinstance(block, dict)] if isinstance(blocks, list) else []
    if not lines and result.get("structuredContent") is not None:
        return json.dumps(result["structuredContent"], indent=2, ensure_ascii=False)
    return "\n".join(lines)


def _block(block: Mapping[str, Any]) -> str:
    match block.get("type"):
        case "text":
            return str(block.get("text", ""))
        case "image" | "audio" as kind:
            return f"[{kind} {block.get('mimeType', '')}, {size(len(str(block.get('data', ''))) * 3 / 4)}; --json shows it]"
        case "resource_link":
            return f"[resource {block.get('uri', '')}]"
        case "resource":
            held = block.get("resource")
            held = held if isinstance(held, dict) else {}
            return str(held["text"]) if "text" in held else f"[resource {held.get('uri', '')}, {held.get('mimeType', '')}; --json shows it]"
        case kind:
            return f"[{kind}] {json.dumps(block, ensure_ascii=False)}"
