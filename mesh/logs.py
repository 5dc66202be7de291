"""What logging does where nobody configured it. The command line configures its own (mesh/cli/logging.py)."""

import logging
import sys

import structlog


def be_quiet_by_default() -> None:
    """structlog's own default prints to stdout, where a stdio server speaks, and a traceback with all local variables, secrets among them.
    So: warnings, to stderr, with plain tracebacks."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )
