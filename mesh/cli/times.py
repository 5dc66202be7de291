"""Times as a person writes them."""

from datetime import datetime
from typing import Final

import typer

TIMES: Final = "10m, 2h, 3d ago, or a time as 2026-01-31T12:00 (of this machine's zone, or with one)."


def read_time(option: str, text: str | None) -> int | None:
    """Nanoseconds since 1970 of what a person wrote. Raises typer.BadParameter."""
    from mesh import clock
    from mesh.policy import when

    if text is None:
        return None
    if (ago := when.read_span(text)) is not None:
        return clock.wall_ns() - round(ago * 1e9)
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1e9)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time: {TIMES}", param_hint=option) from None


def read_span(option: str, text: str | None) -> float | None:
    """Seconds of a span: 90s, 10m, 2h, 3d. Raises typer.BadParameter."""
    from mesh.policy import when

    if text is None:
        return None
    if (said := when.read_span(text)) is None:
        raise typer.BadParameter(f"{text!r} is no span of time: 90s, 10m, 2h, 1d", param_hint=option)
    return said
