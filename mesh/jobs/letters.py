"""Dead letters of jobs. Sent again, a job keeps its name: who asked for it finds it under the id that it has."""

import json
from dataclasses import replace
from typing import Any

from mesh.delivery import Again, Kept, Told
from mesh.errors import MalformedMessage
from mesh.subjects import Job, Subject, Subjects
from mesh.wire.job import JOB_HEADER, read_options
from mesh.wire.jsonrpc import dumps
from mesh.wire.letter import DeadLetter
from mesh.wire.reading import read_object


class JobLetters:
    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects

    def tell(self, target: str, sent: Subject, letter: DeadLetter) -> Told | None:
        if not isinstance(sent, Job) or sent.target != target:
            return None
        try:
            options = read_options(letter.headers)
            read_object(letter.body, "a job")
        except MalformedMessage:
            return Told(sent.caller, "normal", sent.name or sent.method, None)
        return Told(sent.caller, "normal", sent.name or sent.method, options)

    def mended(self, kept: Kept, content: Any) -> bytes:
        """`content` is what stands in the place of the arguments."""
        body = read_object(kept.letter.body, "a job")
        params = body.get("params")
        return dumps({**body, "params": {**(params if isinstance(params, dict) else {}), "arguments": content}})

    def again(self, kept: Kept) -> Again:
        """Without its deadline, which may have passed."""
        assert isinstance(kept.sent, Job)
        options = replace(kept.item, deadline=None, again=f"{kept.number}-{kept.at_ns}")
        subject = self._subjects.job(kept.sent.target, kept.sent.caller, kept.sent.method, kept.sent.name)
        return Again(subject, kept.letter.body, {JOB_HEADER: options.header()}, f"submit {kept.sent.target}/{kept.sent.name}")


def arguments_of(body: bytes) -> Any:
    """What a job's tool is given."""
    params = json.loads(body).get("params")
    return (params.get("arguments") or {}) if isinstance(params, dict) else {}
