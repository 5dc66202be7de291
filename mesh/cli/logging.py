"""Where log lines go. The one place that configures structlog and the standard library's logging.

Both end in the same handlers: `mesh.log` in the state directory (everything from INFO, for `mesh up` only), and stderr. One line an event:

    2026-01-31T12:00:00.123456Z warning  mesh.plane: instance lost  agent=time instance=3f2a9c01 why='its connection ended'
"""

import logging
import os
import sys
from collections.abc import Mapping, MutableMapping
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Final

import structlog

from mesh import clock
from mesh.link.state_dir import private

LOG_FILE: Final = "mesh.log"
LOG_BYTES: Final = 16 * 1024 * 1024
LOG_FILES: Final = 3
"""Bounds of the log, as the broker's own (nats-server.conf): at this size a new file is begun, and so many old ones are kept."""


def configure(*, stderr: int | None = logging.WARNING, file: Path | None = None) -> None:
    """`stderr`: the lowest level that is shown there, None for nothing at all. `file`: where everything from INFO goes."""
    handlers: list[logging.Handler] = [logging.NullHandler()]
    if stderr is not None:
        shown = logging.StreamHandler(sys.stderr)
        shown.setLevel(stderr)
        handlers.append(shown)
    if file is not None:
        handlers.append(_PrivateFile(file, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8"))
    shared: list[Any] = [structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name, _stamp, structlog.processors.format_exc_info]
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*shared[:-1], structlog.stdlib.ExtraAdder()],
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, structlog.processors.format_exc_info, _line],
    )
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    for handler in handlers:
        root.addHandler(handler)
    lowest = logging.INFO if file is not None else stderr
    root.setLevel(logging.CRITICAL + 1 if lowest is None else lowest)
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a test, and `mesh up` itself, configures more than once
    )


class _PrivateFile(RotatingFileHandler):
    """Its files are their owner's alone."""

    def _open(self) -> TextIOWrapper:
        return os.fdopen(private(self.baseFilename, os.O_WRONLY | os.O_APPEND), "a", encoding="utf-8")


def _stamp(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    event["time"] = clock.iso(clock.wall_ns())
    return event


def _line(_logger: Any, _method: str, event: Mapping[str, Any]) -> str:
    rest = dict(event)
    head = f"{rest.pop('time')} {rest.pop('level', ''):<8} {rest.pop('logger', '')}: {rest.pop('event', '')}"
    trace = rest.pop("exception", None)
    line = "  ".join([head, *([" ".join(f"{key}={_value(value)}" for key, value in rest.items())] if rest else [])])
    # Text of other processes stands in log lines: one event is one line, and no terminal is told anything.
    line = "".join(each if each.isprintable() else repr(each)[1:-1] for each in line)
    return f"{line}\n{trace}" if trace else line


def _value(value: Any) -> str:
    text = str(value)
    return repr(text) if not text or " " in text or "=" in text else text
