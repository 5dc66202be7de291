"""Dead letters of events: of one subscription, while the others may have heard the same event well.

Sent again it is stored under its publisher's subject as before, with the header `Mesh-Only`: only the subscription whose dead letter it was
gets it. Replays and ephemeral subscriptions pass it over. So who writes a dead letter of its own with an event that never was, deceives
nobody but itself.
"""

from typing import Any

from mesh.delivery import Again, Kept, Told
from mesh.errors import MalformedMessage, Refused
from mesh.events.reading import ONLY, EventReader
from mesh.events.subscribing import only
from mesh.subjects import Cast, Subject, Subjects
from mesh.subjects import Event as EventSubject
from mesh.wire.event import Event, encode, is_binary, new_event
from mesh.wire.letter import DeadLetter


class EventLetters:
    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._reader = EventReader(subjects)

    def tell(self, target: str, sent: Subject, letter: DeadLetter) -> Told | None:
        if not isinstance(sent, EventSubject | Cast) or not letter.subscription:
            return None
        sender = sent.publisher if isinstance(sent, EventSubject) else sent.sender
        try:
            event = self._reader.read(letter.subject, letter.body, letter.headers, 0, letter.stored_ns, letter.deliveries)
        except (MalformedMessage, Refused):
            event = None
        return Told(sender, sent.priority, "?" if event is None else event.type, event)

    def mended(self, kept: Kept, content: Any) -> bytes:
        event: Event | None = kept.item
        if event is None:
            event = new_event(kept.sender, "", None, id=f"dead-{kept.number}", type="unreadable", time_ns=kept.letter.stored_ns)
        return encode(event.with_data(content), binary=kept.item is not None and is_binary(kept.letter.headers)).body

    def again(self, kept: Kept) -> Again:
        headers = {**kept.letter.headers, ONLY: only(kept.target, kept.letter.subscription)}
        action = f"publish {kept.sent.topic}" if isinstance(kept.sent, EventSubject) else f"nats pub {kept.letter.subject}"
        return Again(kept.letter.subject, kept.letter.body, headers, action)
