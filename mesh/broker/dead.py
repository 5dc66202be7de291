"""Dead letters, written by receivers and by the control plane. Operators read them and send them again (`mesh.broker.letters`).

Each lies under `dead.{target}.{stream}.{number}`, where `number` names one message of one stream. A second one on the same subject is
refused by the stream: so it is kept once, whoever writes it, and writing it again is safe.
"""

from dataclasses import replace
from typing import Final

import structlog

from mesh.broker.sending import NO_ROOM, PER_SUBJECT
from mesh.errors import ApiError
from mesh.link.jetstream import JetStream
from mesh.subjects import Subjects
from mesh.wire.message import DEAD_HEADER, ROOM, DeadLetter

_log: Final = structlog.get_logger("mesh.broker")


def letter_subject(subjects: Subjects, target: str, stream: str, seq: int, stored_ns: int) -> str:
    return subjects.dead(target, stream, f"{seq}-{stored_ns}")


async def write_letter(js: JetStream, subject: str, letter: DeadLetter) -> None:
    """Keep a dead letter; when this returns, the stream has it. Raises what `JetStream.publish` raises: then it may have it or not."""
    room = js.connection.max_payload - ROOM // 2
    if len(letter.body) > room - ROOM // 2:
        # Who wrote it left no room for headers, as our own senders do.
        letter = replace(letter, body=letter.body[: room - ROOM // 2], cut=True)
    try:
        await js.publish(subject, letter.body, headers={DEAD_HEADER: letter.header()})
    except ApiError as error:
        if error.err_code != NO_ROOM or PER_SUBJECT not in error.description:
            raise
    else:
        _log.warning("dead letter", subject=letter.subject, code=letter.code, why=letter.reason)
