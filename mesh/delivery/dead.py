"""Dead letters, written by receivers and by the control plane. Operators read them and send them again (`mesh.delivery.letters`).

Each lies under `dead.{target}.{stream}.{number}`, where `number` names one message of one stream; where several subscriptions get the same
message it names the subscription too. A second one on the same subject is refused by the stream: so it is kept once, whoever writes it, and
writing it again is safe.
"""

import hashlib
from dataclasses import replace
from typing import Final

import structlog

from mesh.delivery.storing import what_is_full
from mesh.errors import ApiError
from mesh.link.jetstream import JetStream
from mesh.subjects import Subjects
from mesh.wire.letter import DEAD_HEADER, ROOM, DeadLetter

_log: Final = structlog.get_logger("mesh.delivery")


def letter_subject(subjects: Subjects, target: str, stream: str, seq: int, stored_ns: int, subscription: str = "") -> str:
    number = f"{seq}-{stored_ns}"
    if subscription:
        number += f"-{hashlib.sha256(subscription.encode('utf-8', 'surrogatepass')).hexdigest()[:16]}"
    return subjects.dead(target, stream, number)


async def write_letter(js: JetStream, subject: str, letter: DeadLetter) -> None:
    """Keep a dead letter; when this returns, the stream has it. Raises what `JetStream.publish` raises: then it may have it or not."""
    room = js.connection.max_payload - ROOM // 2
    if len(letter.body) > room - ROOM // 2:
        # Who wrote it left no room for headers, as our own senders do.
        letter = replace(letter, body=letter.body[: room - ROOM // 2], cut=True)
    said = letter.header()
    if sum(len(key.encode()) + len(value.encode()) + 4 for key, value in letter.headers.items()) > ROOM - len(said) - 128:
        letter = replace(letter, headers={}, cut=True)
        said = letter.header()
    try:
        await js.publish(subject, letter.body, headers={**letter.headers, DEAD_HEADER: said})
    except ApiError as error:
        if what_is_full(error) != "subject":
            raise
    else:
        _log.warning("dead letter", subject=letter.subject, code=letter.code, why=letter.reason)
