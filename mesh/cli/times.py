"""Times as a person writes them."""

import re
from datetime import datetime
from typing import Final

import typer

TIMES: Final = "10m, 2h, 3d ago, or a time as 2026-01-31T12:00 (of this machine's zone, or with one)."

_AGO: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d|w)").fullmatch
_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}


def read_time(option: str, text: str | None) -> int | None:
    """Nanoseconds since 1970 of what a person wrote. Raises typer.BadParameter."""
    from mesh import clock

    if text is None:
        return None
    if (ago := _AGO(text)) is not None:
        return clock.wall_ns() - round(float(ago[1]) * _SECONDS[ago[2]] * 1e9)
    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1e9)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is no time: {TIMES}", param_hint=option) from None


def read_span(option: str, text: str | None) -> float | None:
    """Seconds of a span: 90s, 10m, 2h, 3d. Raises typer.BadParameter."""
    if text is None:
        return None
    if (said := _AGO(text)) is None:
        raise typer.BadParameter(f"{text!r} is no span of time: 90s, 10m, 2h, 1d", param_hint=option)
    return float(said[1]) * _SECONDS[said[2]]
