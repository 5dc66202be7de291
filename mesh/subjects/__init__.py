"""Every subject of the mesh: built, parsed and filtered here, and nowhere else is a subject text.

`{prefix}.v1.{family}.{…}`. The sender is always a token, so that the broker can hold an agent to its own name.

| family   | after the family                                       | carries                                                |
|----------|--------------------------------------------------------|--------------------------------------------------------|
| call     | {target}.{instance}.{caller}.{method…}[.{name}]        | one JSON-RPC request, journaled                        |
| quiet    | the same                                               | the same, not journaled                                |
| probe    | {target}.{instance}.{caller}                           | "is anyone there?", not journaled                      |
| note     | {target}.{caller}.{method…}                            | a notification to every instance, journaled            |
| reply    | {caller}.{target}.{connection}.{exchange}              | the frames of one exchange, to the caller's connection |
| hush     | the same                                               | the frames of a quiet exchange, not journaled          |
| part     | {to}.{end}.{from}.{caller}.{connection}.{exchange}     | chunks of a large body, and the credits for them       |
| record   | {target}.{caller}                                      | a journal record without bodies                        |
| msg      | {target}.{sender}.{priority}                           | a durable message, stored in its priority's stream     |
| event    | {publisher}.{priority}.{topic…}                        | an event, to whom it concerns                          |
| cast     | {sender}.{priority}.{role}                             | a broadcast to a role, or to all (`any`)               |
| job      | {target}.{caller}.{method…}[.{name}]                   | a durable call                                         |
| jobs     | {target}.{caller}.{id}                                 | the broker's copy of a job's state, live               |
| stream   | {to}.{end}.{from}.{stream}                             | a frame of a stream between two                        |
| flow     | {to}.{from}.{stream}                                   | a message of a durable stream                          |
| mark     | {to}.{from}.{stream}                                   | the broker's copy of its headers: how far it is        |
| schedule | {sender}.{id}                                          | what is to be sent later; the control plane's alone    |
| due      | {sender}.{id}                                          | what a schedule brought forth                          |
| handled  | {owner}.{batch}                                        | the broker's copy of "this is done", live              |
| schemas  | {topic…}.{version}                                     | the broker's copy of a topic's schema, live            |
| dead     | {target}.{stream}.{number}                             | what is not tried again                                |
| health   | {agent}.{instance}                                     | the broker's copy of the health bucket, live           |
| registry | {agent}.{instance}                                     | the broker's copy of the registry bucket, live         |
| gone     | {agent}.{connection}                                   | the control plane's word that a caller is gone         |
| broker   | disconnect                                             | the broker's own disconnect events                     |

`tokens` says how names, methods and topics become tokens, `families` what a subject says as data, `grammar` builds and reads them, `rights`
names them in permissions.
"""

from mesh.subjects.families import (
    PARSERS,
    Call,
    Cast,
    Dead,
    Due,
    Event,
    Flow,
    FoldedReply,
    Gone,
    HandledMark,
    Health,
    Job,
    JobState,
    Mark,
    Msg,
    Note,
    Part,
    Probe,
    Record,
    Registry,
    Reply,
    Schedule,
    SchemaVersion,
    StreamFrame,
    Subject,
)
from mesh.subjects.grammar import Subjects, given_up
from mesh.subjects.rights import ALL_INBOXES, MICRO, USER_INFO, rights_ack, rights_api, rights_inbox, rights_key
from mesh.subjects.tokens import (
    ANSWER,
    ANY,
    CONTROL_PLANE,
    EACH,
    GATEWAY,
    LONGEST_METHOD,
    LONGEST_NAME,
    LONGEST_TOPIC,
    ME,
    MEMBER,
    NAME_KEYS,
    OPEN_STREAM,
    OPERATOR,
    PRIORITIES,
    VERSION,
    Token,
    client_name,
    escape,
    key_of,
    read_client_name,
    tail,
    topic_pattern,
    topic_tokens,
    unescape,
)

__all__ = [
    "ALL_INBOXES",
    "ANSWER",
    "ANY",
    "CONTROL_PLANE",
    "EACH",
    "GATEWAY",
    "LONGEST_METHOD",
    "LONGEST_NAME",
    "LONGEST_TOPIC",
    "ME",
    "MEMBER",
    "MICRO",
    "NAME_KEYS",
    "OPEN_STREAM",
    "OPERATOR",
    "PARSERS",
    "PRIORITIES",
    "USER_INFO",
    "VERSION",
    "Call",
    "Cast",
    "Dead",
    "Due",
    "Event",
    "Flow",
    "FoldedReply",
    "Gone",
    "HandledMark",
    "Health",
    "Job",
    "JobState",
    "Mark",
    "Msg",
    "Note",
    "Part",
    "Probe",
    "Record",
    "Registry",
    "Reply",
    "Schedule",
    "SchemaVersion",
    "StreamFrame",
    "Subject",
    "Subjects",
    "Token",
    "client_name",
    "escape",
    "given_up",
    "key_of",
    "read_client_name",
    "rights_ack",
    "rights_api",
    "rights_inbox",
    "rights_key",
    "tail",
    "topic_pattern",
    "topic_tokens",
    "unescape",
]
