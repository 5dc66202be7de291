"""Jobs: a `tools/call` that is stored, done by whoever answers to the name, and collected later, over every restart in between.

The door is `mesh.jobs` (`Jobs`):

- `submit(agent, tool, arguments=None, *, key=None, deadline=None, attempts=3, keep=86400) -> JobRecord`, returns once the broker has it
- `get(id) -> JobRecord`, `cancel(id) -> JobRecord`; NoSuchJob for what is not ours
- `list(most=1000) -> list[JobRecord]`, the newest first, without results
- `wait(id, timeout=None) -> JobRecord` once it is over; CallTimeout
- `watch(id)`: an async iterator of JobRecord: as it is, and each change until it is over
- `work(handler, *, roles=(), workers=1)`: `async with` it to do the jobs of our name. `handler(work)` gets `work.tool`, `work.arguments`,
  `work.progress(done, total, message)`; what it returns is the result. It raises `Reject` for what must not be tried again.

`mesh.wire.job` says what travels, `mesh.policy.job_life` which state follows which. `desk` is the control plane's side, `listing`
what it lists, `ending` what it ends by itself; `door` is the caller's, and `worker` and `doing` the working side. `records` is how all of
them write without overwriting each other, `asking` what is asked again, `letters` the dead letters.
"""

from mesh.delivery import Reject, Retry
from mesh.jobs.attempt import JobError, Work
from mesh.jobs.desk import JobDesk
from mesh.jobs.door import JobOptions, Jobs
from mesh.jobs.ending import end_old
from mesh.jobs.letters import JobLetters
from mesh.jobs.worker import JobWorker
from mesh.wire.job import JobRecord

__all__ = ["JobDesk", "JobError", "JobLetters", "JobOptions", "JobRecord", "JobWorker", "Jobs", "Reject", "Retry", "Work", "end_old"]
