"""Delivery: what is taken from the broker, handled once, tried again, and kept as a dead letter. Messages, events and jobs stand on it.

- `Receiver(js, subjects, family, source, handler, **ReceiverOptions)` (`async with`): pulls from lanes in weighted shares, and runs the
  handler. A `Family` says how a delivery is read and who is told of its end; a `Source` says which `Lane`s there are, and how more are
  found.
- A handler raises `Retry(after=…)` or anything else to have it again, `Reject(why)` to have it made a dead letter.
- `Handled`: what was done already. `Recently` keeps it in memory, `HandledInBucket` at the broker, for a pool and over restarts, and
  `HandledInSqlite` in one transaction with the effect.
- `Store`: stores something at the broker once, with a deduplication id that nobody else can make. A `Participant` is what the doors are
  given; `secret_of` its credentials.
- `DeadLetters`: looked through, mended, sent again, dropped; a `LetterFamily` says how. `letter_subject` and `write_letter` write one,
  `keep` in a receiver's place; the control plane has `keep_given_up` for what the broker gave up, and `keep_unread` for what nobody reads.
"""

from mesh.delivery.dead import letter_subject, write_letter
from mesh.delivery.family import Family, Lane, Source
from mesh.delivery.given_up import OWNER, SUBSCRIPTION, keep, keep_given_up
from mesh.delivery.handled import Handled, Key, Recently
from mesh.delivery.handled_bucket import HandledInBucket
from mesh.delivery.handled_sqlite import HandledInSqlite
from mesh.delivery.handling import Handler, Handling
from mesh.delivery.letters import Again, DeadLetters, Kept, LetterFamily, Told, as_dict
from mesh.delivery.participant import Ask, Participant
from mesh.delivery.receiver import Receiver, ReceiverOptions, consumer_config
from mesh.delivery.storing import Store, secret_of, what_is_full
from mesh.delivery.unread import keep_older, keep_unread
from mesh.delivery.verdicts import AlreadyHandled, Reject, Retry

__all__ = [
    "OWNER", "SUBSCRIPTION", "Again", "AlreadyHandled", "Ask", "DeadLetters", "Family", "Handled", "HandledInBucket", "HandledInSqlite",
    "Handler", "Handling", "Kept", "Key", "Lane", "LetterFamily", "Participant", "Receiver", "ReceiverOptions", "Recently", "Reject",
    "Retry", "Source", "Store", "Told", "as_dict", "consumer_config", "keep", "keep_given_up", "keep_older", "keep_unread",
    "letter_subject", "secret_of", "what_is_full", "write_letter",
]  # fmt: skip
