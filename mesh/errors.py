"""The error tree: what went wrong, as a stable code, what to do next, and whether trying again can help.

MeshError
├── ConfigError            what a person wrote is wrong               invalid_config, unknown_agent_file
├── BadUsage               a command that was not asked properly      bad_usage
├── BrokerError            the broker cannot be used
│   ├── BrokerUnavailable  not reachable, or gone                     broker_unavailable
│   │   └── NotAdmitted    the broker does not take the credentials   not_admitted
│   ├── BrokerUnsuitable   too old, no JetStream, other settings      broker_unsuitable
│   ├── NoResponders       a core request that nobody listens to     no_responders
│   ├── ApiError           JetStream refused a request                api_error
│   ├── BrokerMissing      no nats-server program to start            broker_missing
│   ├── PortTaken          the broker cannot listen there            port_taken
│   ├── StateDirUnusable   the state directory cannot be written      state_dir_unusable
│   └── StateDirInUse      two meshes on one state directory          state_dir_in_use
├── MalformedMessage       bytes that are no JSON-RPC message         malformed_message
├── Refused                a message that breaks a rule of the mesh   refused
├── TooLarge               over the size limit                        too_large
├── MailboxFull            no room for another message                mailbox_full
├── EventsFull             no room for another event                  events_full
├── InvalidToken           a bearer token that does not count here    invalid_token
├── InvalidEvent           an event that its topic's schema refuses   invalid_event
├── IncompatibleSchema     a version that its topic's rule refuses    incompatible_schema
├── BadExpression          a CEL expression that cannot be used       bad_expression
└── CallError              one call did not come to its result
    ├── NoSuchAgent        nobody answers to that name                no_such_agent
    ├── Denied             the caller's roles do not allow it         permission_denied
    ├── CallTimeout        the deadline passed                        timeout
    ├── InstanceLost       the instance that held the call is gone    instance_lost
    ├── OutcomeUnknown     it may or may not have run                 outcome_unknown
    ├── Busy               the target has no room                     busy
    ├── RateLimited        the caller asks more often than it may     rate_limited
    ├── BadSchedule        a time that no message can be sent at      bad_schedule
    ├── NoSuchSchedule     the sender has no schedule of that id      no_such_schedule
    ├── NoSuchJob          the caller has no job of that id           no_such_job
    ├── NoSuchDeadLetter   there is no dead letter of that number     no_such_dead_letter
    ├── JobFailed          a job that failed, or was not done in time job_failed
    ├── JobCancelled       its caller wanted it no more               job_cancelled
    ├── StreamRefused      no such stream there, or a broken protocol stream_refused
    ├── StreamLost         the other end of a stream is gone          stream_lost
    ├── StreamIdle         a stream on which nothing was said         stream_idle
    ├── StreamCancelled    one end of a stream gave it up             stream_cancelled
    ├── Disconnected       the mesh is closing                        disconnected
    └── RemoteError        the far side answered with an error        (its own code, message and data)

This module is long because each error is a class with its own words, and they have one tree.

Codes are stable: scripts may match them. `retryable` says whether the same call may be made again without asking anybody.
nats-py's own errors are translated once, in `mesh.link`.
"""

from typing import Any, ClassVar


class MeshError(Exception):
    """The root. `str(error)` is one sentence on the cause; `hint` is the next step."""

    code: ClassVar[str] = "mesh_error"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def as_dict(self) -> dict[str, Any]:
        """The shape that `--json` prints on stderr: `{"code", "message", "hint"?, "retryable", "details"?}`."""
        body: dict[str, Any] = {"code": self.code, "message": self.message, "retryable": self.retryable}
        if self.hint:
            body["hint"] = self.hint
        if self.details:
            body["details"] = {key: _plain(value) for key, value in self.details.items()}
        return body


class BadUsage(MeshError):
    """A command with an option that it does not have, without an argument that it needs, or with one that it cannot read."""

    code = "bad_usage"


class ConfigError(MeshError):
    """A setting, a file or an argument that cannot be used."""

    code = "invalid_config"


class BrokerError(MeshError):
    """The broker cannot be used."""

    code = "broker_error"


class BrokerUnavailable(BrokerError):
    """Nothing answers at the broker's address, or the connection is gone for good."""

    code = "broker_unavailable"
    retryable = True


class BrokerUnsuitable(BrokerError):
    """The broker is there, but it is too old, or lacks JetStream, or ignored a setting that the mesh relies on."""

    code = "broker_unsuitable"


class NotAdmitted(BrokerUnavailable):
    """The broker does not let this participant in: no credentials, or they are expired, revoked, or of another mesh."""

    code = "not_admitted"
    retryable = False


class BrokerMissing(BrokerError):
    """There is no `nats-server` program to start."""

    code = "broker_missing"


class PortTaken(BrokerError):
    """The broker cannot listen on a port, mostly because another program does. `details` name the `port` and the `listener`."""

    code = "port_taken"


class StateDirUnusable(BrokerError):
    """The state directory cannot be made or written."""

    code = "state_dir_unusable"


class StateDirInUse(BrokerError):
    """Another mesh runs on this state directory."""

    code = "state_dir_in_use"


class NoResponders(BrokerError):
    """A core request on a subject that nobody listens to."""

    code = "no_responders"


class ApiError(BrokerError):
    """JetStream refused a request. `status` is like HTTP's, `err_code` is the server's own (nats-server, errors.json)."""

    code = "api_error"

    def __init__(self, status: int, err_code: int, description: str, **details: Any) -> None:
        super().__init__(f"JetStream refused: {description}", status=status, err_code=err_code, **details)
        self.status = status
        self.err_code = err_code
        self.description = description


class MalformedMessage(MeshError):
    """Bytes from outside that are no JSON-RPC message. `starts` shows their beginning."""

    code = "malformed_message"


class Refused(MeshError):
    """A well-formed message that breaks a rule of the mesh: subject, sender, reply subject, headers or body disagree."""

    code = "refused"


class TooLarge(MeshError):
    """A body over the limit. Nothing was sent."""

    code = "too_large"


class MailboxFull(MeshError):
    """The target has as many messages of this sender and priority waiting as there may be, or of all senders as is good for it (`over` of
    MessageOptions), or the priority's stream is full. Nothing was stored. `details["limit"]` is the number of messages, where it is
    that."""

    code = "mailbox_full"
    retryable = True


class EventsFull(MeshError):
    """The stream of events is full, or the publisher has as many on that topic as there may be. Nothing was stored."""

    code = "events_full"
    retryable = True


class InvalidToken(MeshError):
    """A bearer token that is none, or that does not count here: its signature, audience, times, or participant."""

    code = "invalid_token"


class InvalidEvent(MeshError):
    """An event whose data does not fit the schema of its topic. It was not stored, or is not delivered. `details` name the `path` in the
    data,
    the `topic`, the `version` of the schema and the `rule` in it that failed."""

    code = "invalid_event"


class IncompatibleSchema(MeshError):
    """A schema that cannot be registered: it is none, or none that we take, or its topic's rule refuses it after the versions that there
    are.
    `details` name the `path` in the schema."""

    code = "incompatible_schema"


class BadExpression(MeshError):
    """An expression (a filter, a transformation, a conversion) that cannot be used, or that failed on what it was given. `details` name
    `line` and `column` where it is known."""

    code = "bad_expression"


class CallError(MeshError):
    """One call that did not come to its result."""

    code = "call_error"


class NoSuchAgent(CallError):
    """Nobody answers to that name. `details["close"]` lists the names that come close."""

    code = "no_such_agent"


class Denied(CallError):
    """The caller's roles do not allow it; the broker would refuse it, or did. `details["subject"]` is what no rule allows."""

    code = "permission_denied"


class CallTimeout(CallError):
    """The deadline passed. The call was cancelled at the target; whether it had an effect is not known."""

    code = "timeout"


class InstanceLost(CallError):
    """The instance that held the call is gone. Whether the call had an effect is not known."""

    code = "instance_lost"


class OutcomeUnknown(CallError):
    """The call may have run or not: its reply was lost and nobody can say. Safe to repeat only if the tool is."""

    code = "outcome_unknown"


class Busy(CallError):
    """The target holds as many calls as it may. `details["retry_after"]` is in seconds."""

    code = "busy"
    retryable = True


class RateLimited(CallError):
    """The caller asks more often than it may. The call did not run. `details["retry_after"]` is in seconds."""

    code = "rate_limited"
    retryable = True


class BadSchedule(CallError):
    """A time, a period or a cron line that cannot be kept, or one schedule too many. Nothing was scheduled."""

    code = "bad_schedule"


class NoSuchSchedule(CallError):
    """The sender has no schedule of that id: it was sent, cancelled, or never there."""

    code = "no_such_schedule"


class NoSuchJob(CallError):
    """The caller has no job of that id, or it is over and no longer kept."""

    code = "no_such_job"


class NoSuchDeadLetter(CallError):
    """There is no dead letter of that number: it was sent again, mended (then it has another one), dropped, or never there."""

    code = "no_such_dead_letter"


class JobFailed(CallError):
    """A job that has no result. `details["job"]` is its id, `details["state"]` failed or expired, `details["error"]` the JSON-RPC error."""

    code = "job_failed"


class JobCancelled(CallError):
    """A job that was cancelled before it had a result."""

    code = "job_cancelled"


class StreamRefused(CallError):
    """Nobody there serves streams of that type, there are too many, or the other end broke the protocol."""

    code = "stream_refused"


class StreamLost(CallError):
    """The other end is gone, or has left without reading on. What it had said before can still be read; what it has read of ours is not
    known."""

    code = "stream_lost"


class StreamIdle(CallError):
    """Neither end said anything for as long as a stream may be idle."""

    code = "stream_idle"


class StreamCancelled(CallError):
    """One of the two ends gave the stream up."""

    code = "stream_cancelled"


class Disconnected(CallError):
    """This process left the mesh, or lost it for longer than a call may wait."""

    code = "disconnected"
    retryable = True


class RemoteError(CallError):
    """The far side's own JSON-RPC error, as it came: `rpc_code`, `message`, `data`."""

    code = "remote_error"

    def __init__(self, rpc_code: int, message: str, data: Any = None) -> None:
        super().__init__(message, rpc_code=rpc_code, **({} if data is None else {"data": data}))
        self.rpc_code = rpc_code
        self.data = data


def _plain(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
