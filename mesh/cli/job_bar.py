"""How far a job is, for people: in a line, and as the last line of a terminal."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh.jobs import JobRecord


class Bar:
    """The last line of a terminal: how far a job is. Where stderr is no terminal it shows nothing."""

    WIDTH = 30

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()
        self._shown = False

    def show(self, job: "JobRecord") -> None:
        if self._on:
            self._shown = True
            sys.stderr.write(f"\r\x1b[K{bar_text(job, self.WIDTH)}"[:130])
            sys.stderr.flush()

    def clear(self) -> None:
        if self._shown:
            self._shown = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def bar_text(job: "JobRecord", width: int) -> str:
    from mesh.cli.render import plain

    said = plain(job.message or "")
    if job.progress is None or not job.total:
        return f"{job.state}{how_far(job)}"
    full = round(width * min(1.0, max(0.0, job.progress / job.total)))
    return f"[{'#' * full}{'.' * (width - full)}] {job.progress:g}/{job.total:g} {said}"


def how_far(job: "JobRecord") -> str:
    from mesh.cli.render import plain

    if job.over or job.progress is None:
        return ""
    return f"  {job.progress:g}{'' if job.total is None else f'/{job.total:g}'} {plain(job.message or '')}"
