"""Hints of errors as a host can follow them: it has tools, and no shell. A command that is a tool here is named as that tool, and what only
the command line can do is for who looks after the mesh."""

import re
from typing import Final

_TOOLS: Final = {
    "agents": "list_agents",
    "events subscriptions delete": "unsubscribe_events",
    "jobs cancel": "cancel_job",
    "jobs list": "list_jobs",
    "jobs show": "get_job",
    "jobs wait": "get_job",
    "listen": "check_messages",
    "publish": "publish_event",
    "schedules cancel": "cancel_schedule",
    "schedules list": "list_schedules",
    "send": "send_message",
}
"""By the words that follow `mesh`."""

_command: Final = re.compile(r"`mesh (.*?)`")


def for_hosts(hint: str) -> str:
    told = _command.sub(_tool, hint)
    return f"for who looks after this mesh: {told}" if _command.search(told) else told


def _tool(command: re.Match[str]) -> str:
    return next((tool for words, tool in _TOOLS.items() if f"{command[1]} ".startswith(f"{words} ")), command[0])
