"""The grammar of subjects under one prefix: what is published on, subscribed to, and stored."""

from mesh.errors import Refused
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
from mesh.subjects.rights import Rights
from mesh.subjects.tokens import VERSION, escape, is_token, tail, topic_pattern, topic_tokens


class Subjects(Rights):
    """The grammar under one prefix. Builders take names as people write them; filters take None for "any"."""

    def __init__(self, prefix: str = "mesh") -> None:
        if not is_token(prefix):
            raise ValueError(f"a prefix is one token of [A-Za-z0-9_-], not {prefix!r}")
        self.prefix = prefix
        self.root = f"{prefix}.{VERSION}."

    def build(self, subject: Subject) -> str:
        match subject:
            case Call(target, instance, caller, method, name, quiet):
                return self.call(target, instance, caller, method, name, quiet=quiet)
            case Probe(target, instance, caller):
                return self.probe(target, instance, caller)
            case Note(target, caller, method):
                return self.note(target, caller, method)
            case Reply(caller, target, connection, exchange, quiet):
                return f"{self.reply_prefix(caller, target, connection, quiet=quiet)}{escape(exchange)}"
            case FoldedReply(caller, target):
                return f"{self.root}reply.{escape(caller)}.{escape(target)}"
            case Part(to, end, sender, caller, connection, exchange):
                return self.part(to, end, sender, ".".join(map(escape, (caller, connection, exchange))))
            case Record(target, caller):
                return f"{self.root}record.{escape(target)}.{escape(caller)}"
            case Msg(target, sender, priority):
                return self.message(target, sender, priority)
            case Event(publisher, priority, topic):
                return self.event(publisher, priority, topic)
            case Cast(sender, priority, role):
                return self.cast(sender, priority, role)
            case Job(target, caller, method, name):
                return self.job(target, caller, method, name)
            case JobState(target, caller, id):
                return self._names("jobs", target, caller, id)
            case StreamFrame(to, end, sender, stream):
                return self.stream_frame(to, end, sender, stream)
            case Flow(to, sender, stream):
                return self.flow(to, sender, stream)
            case Mark(to, sender, stream):
                return self.mark(to, sender, stream)
            case Schedule(sender, id):
                return self._names("schedule", sender, id)
            case Due(sender, id):
                return self._names("due", sender, id)
            case HandledMark(owner, batch):
                return self._names("handled", owner, batch)
            case SchemaVersion(topic, version):
                return f"{self.root}schemas.{topic_tokens(topic)}.{escape(version)}"
            case Dead(target, stream, number):
                return self.dead(target, stream, number)
            case Health(agent, instance):
                return f"{self.root}health.{escape(agent)}.{escape(instance)}"
            case Registry(agent, instance):
                return f"{self.root}registry.{escape(agent)}.{escape(instance)}"
            case Gone(agent, connection):
                return f"{self.root}gone.{escape(agent)}.{escape(connection)}"

    def parse(self, text: str) -> Subject:
        """The subject that `text` is. Raises Refused for a text that `build` never makes."""
        if not text.startswith(self.root):
            raise Refused("a subject outside the mesh", subject=text)
        family, *tokens = text[len(self.root) :].split(".")
        parser = PARSERS.get(family)
        subject = parser(tokens) if parser else None
        if subject is None:
            raise Refused("a subject of no family", subject=text)
        return subject

    def call(self, target: str, instance: str, caller: str, method: str, name: str | None = None, *, quiet: bool = False) -> str:
        family = "quiet" if quiet else "call"
        return f"{self.root}{family}.{escape(target)}.{escape(instance)}.{escape(caller)}.{tail(method, name)}"

    def probe(self, target: str, instance: str, caller: str) -> str:
        return f"{self.root}probe.{escape(target)}.{escape(instance)}.{escape(caller)}"

    def note(self, target: str, caller: str, method: str) -> str:
        return f"{self.root}note.{escape(target)}.{escape(caller)}.{tail(method, None)}"

    def reply_prefix(self, caller: str, target: str, connection: str, *, quiet: bool = False) -> str:
        """The exchange's token follows."""
        return f"{self.root}{'hush' if quiet else 'reply'}.{escape(caller)}.{escape(target)}.{escape(connection)}."

    def part(self, to: str, end: str, sender: str, exchange_id: str) -> str:
        """`exchange_id` is made of tokens already."""
        return f"{self.root}part.{escape(to)}.{escape(end)}.{escape(sender)}.{exchange_id}"

    def message(self, target: str, sender: str, priority: str) -> str:
        return f"{self.root}msg.{escape(target)}.{escape(sender)}.{escape(priority)}"

    def dead(self, target: str, stream: str, number: str) -> str:
        return f"{self.root}dead.{escape(target)}.{escape(stream)}.{escape(number)}"

    def event(self, publisher: str, priority: str, topic: str) -> str:
        return f"{self.root}event.{escape(publisher)}.{escape(priority)}.{topic_tokens(topic)}"

    def cast(self, sender: str, priority: str, role: str) -> str:
        return f"{self.root}cast.{escape(sender)}.{escape(priority)}.{escape(role)}"

    def job(self, target: str, caller: str, method: str, name: str | None = None) -> str:
        return f"{self.root}job.{escape(target)}.{escape(caller)}.{tail(method, name)}"

    def stream_frame(self, to: str, end: str, sender: str, stream: str) -> str:
        return f"{self.root}stream.{escape(to)}.{escape(end)}.{escape(sender)}.{escape(stream)}"

    def flow(self, to: str, sender: str, stream: str) -> str:
        return f"{self.root}flow.{escape(to)}.{escape(sender)}.{escape(stream)}"

    def mark(self, to: str, sender: str, stream: str) -> str:
        return self._names("mark", to, sender, stream)

    def _names(self, family: str, *names: str) -> str:
        return f"{self.root}{family}.{'.'.join(map(escape, names))}"

    # what to subscribe to

    def events(self, topics: str = ">", publisher: str | None = None, priority: str | None = None) -> str:
        """Events on the topics that a pattern names (`topic_pattern`)."""
        by, urgency = ("*" if each is None else escape(each) for each in (publisher, priority))
        return f"{self.root}event.{by}.{urgency}.{topic_pattern(topics)}"

    def casts(self, role: str | None = None, priority: str | None = None) -> str:
        """Broadcasts to those who answer to a role (`ANY`: to all); None: all that there are."""
        urgency, to = ("*" if each is None else escape(each) for each in (priority, role))
        return f"{self.root}cast.*.{urgency}.{to}"

    def jobs_to(self, target: str | None = None) -> str:
        """The jobs of one name, or of all."""
        return f"{self.root}job.{'*' if target is None else escape(target)}.>"

    def job_states(self, caller: str | None = None, id: str | None = None) -> str:
        """Copies of what workers say of the jobs of one caller, of all or one of them."""
        by, which = ("*" if each is None else escape(each) for each in (caller, id))
        return f"{self.root}jobs.*.{by}.{which}"

    def job_states_of(self, target: str) -> str:
        """Copies of what is said of the jobs to one name."""
        return f"{self.root}jobs.{escape(target)}.*.*"

    def stream_frames_to(self, name: str, end: str, stream: str | None = None) -> str:
        return f"{self.root}stream.{escape(name)}.{escape(end)}.*.{'*' if stream is None else escape(stream)}"

    @property
    def flows(self) -> str:
        """What the stream of durable streams takes."""
        return f"{self.root}flow.*.*.*"

    @property
    def marks(self) -> str:
        return f"{self.root}mark.*.*.*"

    @property
    def marks_republish(self) -> tuple[str, str]:
        """Source and destination by which the broker notes how far each direction of a durable stream is."""
        return self.flows, f"{self.root}mark.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{{{{wildcard(3)}}}}"

    def marks_by(self, sender: str, stream: str) -> str:
        """Of what one has said on streams of one id, to whomever."""
        return f"{self.root}mark.*.{escape(sender)}.{escape(stream)}"

    @property
    def schedules(self) -> tuple[str, str]:
        """Schedules, and what they bring forth."""
        return f"{self.root}schedule.*.*", f"{self.root}due.*.*"

    def schedules_of(self, sender: str) -> str:
        return f"{self.root}schedule.{escape(sender)}.*"

    def handled_by(self, owner: str) -> str:
        return f"{self.root}handled.{escape(owner)}.*"

    def schemas_of(self, topics: str = ">") -> str:
        """Copies of the schemas of the topics that a pattern names."""
        words = topic_pattern(topics)
        return f"{self.root}schemas.{words}" if words.endswith(">") else f"{self.root}schemas.{words}.*"

    def lane(self, target: str, priority: str) -> str:
        """The messages of one priority to one name."""
        return f"{self.root}msg.{escape(target)}.*.{priority}"

    def lanes(self, priority: str) -> str:
        """What the stream of a priority takes."""
        return f"{self.root}msg.*.*.{priority}"

    def dead_of(self, target: str | None = None) -> str:
        """The dead letters of one name, or of all."""
        return f"{self.root}dead.{'*' if target is None else escape(target)}.*.*"

    def parts_to(self, name: str, end: str) -> str:
        return f"{self.root}part.{escape(name)}.{escape(end)}.>"

    def calls_to(self, target: str, instance: str, *, quiet: bool = False) -> str:
        return f"{self.root}{'quiet' if quiet else 'call'}.{escape(target)}.{escape(instance)}.>"

    def probes_to(self, target: str, instance: str) -> str:
        return f"{self.root}probe.{escape(target)}.{escape(instance)}.*"

    def notes_to(self, target: str) -> str:
        return f"{self.root}note.{escape(target)}.>"

    def replies_to(self, caller: str, connection: str, *, quiet: bool = False) -> str:
        return f"{self.root}{'hush' if quiet else 'reply'}.{escape(caller)}.*.{escape(connection)}.*"

    def bucket_copy(self, bucket: str, agent: str | None = None) -> str:
        """The live copies of a bucket (`health`, `registry`) that the broker republishes: of one agent, or of all."""
        return f"{self.root}{bucket}.{'*' if agent is None else escape(agent)}.*"

    @property
    def gone(self) -> str:
        """Where the control plane says which callers are gone."""
        return f"{self.root}gone.*.*"

    @property
    def disconnects(self) -> str:
        """Where nats-server.conf imports the broker's disconnect events of this account to."""
        return f"{self.root}broker.disconnect"

    # what the journal stream takes, and what its readers ask for

    @property
    def journaled(self) -> tuple[str, ...]:
        return (f"{self.root}call.>", f"{self.root}note.>", f"{self.root}record.>", f"{self.root}reply.*.*.*.*")

    @property
    def reply_fold(self) -> tuple[str, str]:
        """Source and destination of the journal's subject transform: a reply subject is unique, and would each be an index entry."""
        return f"{self.root}reply.*.*.*.*", f"{self.root}reply.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}"

    def journal_filters(self, *, target: str | None = None, caller: str | None = None) -> tuple[str, ...]:
        """What the journal holds of the calls from a caller to a target."""
        to, by = ("*" if name is None else escape(name) for name in (target, caller))
        return (
            f"{self.root}call.{to}.*.{by}.>",
            f"{self.root}note.{to}.{by}.>",
            f"{self.root}record.{to}.{by}",
            f"{self.root}reply.{by}.{to}",
        )

    def bucket_republish(self, bucket: str) -> tuple[str, str]:
        """Source and destination by which the broker copies each change of a bucket to plain subscribers."""
        return f"$KV.{bucket}.>", f"{self.root}{bucket}.>"


def given_up(stream: str) -> str:
    """Where the broker says that a message of a stream was delivered as often as it may be (NATS ADR-5: `MAX_DELIVERIES`)."""
    return f"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.*"
