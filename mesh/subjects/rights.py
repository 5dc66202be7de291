"""What a permission names: as narrow as the grammar is, and as wide as what is subscribed to. A name may be a `Token` of the broker's own:
a wildcard, or a template that the broker fills in."""

from typing import Final

from mesh.subjects.tokens import Token, escape, tail, topic_pattern


class Rights:
    """The part of `Subjects` that only policies use."""

    root: str

    def rights_call(
        self, target: str | Token, caller: str | Token, method: str | None = None, name: str | Token | None = None, *, below: bool = False
    ) -> tuple[str, str]:
        """Calls and quiet calls to any instance of `target`: all, those of one method (`name`: which tool, prompt or resource), or with
        `below` those of the methods that begin with `method/`."""
        said = _said(method, name, below)
        to, by = _token(target), _token(caller)
        return f"{self.root}call.{to}.*.{by}.{said}", f"{self.root}quiet.{to}.*.{by}.{said}"

    def rights_taking(self, target: str | Token, instance: str | Token) -> tuple[str, str, str, str]:
        """What an instance subscribes to, to take what is addressed to a name: calls, quiet calls, probes, notices."""
        to = f"{_token(target)}.{_token(instance)}"
        return (
            f"{self.root}call.{to}.>",
            f"{self.root}quiet.{to}.>",
            f"{self.root}probe.{to}.*",
            f"{self.root}note.{_token(target)}.>",
        )

    def rights_probe(self, target: str | Token, caller: str | Token) -> str:
        return f"{self.root}probe.{_token(target)}.*.{_token(caller)}"

    def rights_note(self, target: str | Token, caller: str | Token) -> str:
        return f"{self.root}note.{_token(target)}.{_token(caller)}.>"

    def rights_replies(self, caller: str | Token, target: str | Token) -> tuple[str, str]:
        """Frames of journaled and of quiet exchanges, on any connection of the caller."""
        between = f"{_token(caller)}.{_token(target)}.*.*"
        return f"{self.root}reply.{between}", f"{self.root}hush.{between}"

    def rights_parts(self, to: str | Token, sender: str | Token) -> str:
        return f"{self.root}part.{_token(to)}.*.{_token(sender)}.*.*.*"

    def rights_parts_to(self, to: str | Token) -> str:
        """To subscribe to: there the broker compares token by token, and `>` is one."""
        return f"{self.root}part.{_token(to)}.>"

    def rights_record(self, target: str | Token) -> str:
        return f"{self.root}record.{_token(target)}.*"

    def rights_send(self, target: str | Token, sender: str | Token) -> str:
        return f"{self.root}msg.{_token(target)}.{_token(sender)}.*"

    def rights_dead(self, target: str | Token) -> str:
        return f"{self.root}dead.{_token(target)}.*.*"

    def rights_copy(self, bucket: str, agent: str | Token) -> str:
        return f"{self.root}{bucket}.{_token(agent)}.*"

    def rights_job(
        self, target: str | Token, caller: str | Token, method: str | None = None, name: str | Token | None = None, *, below: bool = False
    ) -> str:
        """Jobs, as `rights_call` says it of calls."""
        return f"{self.root}job.{_token(target)}.{_token(caller)}.{_said(method, name, below)}"

    def rights_job_states(self, caller: str | Token) -> str:
        return f"{self.root}jobs.*.{_token(caller)}.*"

    def rights_job_states_of(self, target: str | Token) -> str:
        return f"{self.root}jobs.{_token(target)}.*.*"

    def rights_jobs_to(self, target: str | Token) -> str:
        """To subscribe to."""
        return f"{self.root}job.{_token(target)}.>"

    def rights_stream(self, to: str | Token, sender: str | Token) -> str:
        return f"{self.root}stream.{_token(to)}.*.{_token(sender)}.*"

    def rights_streams_to(self, to: str | Token) -> str:
        """To subscribe to."""
        return f"{self.root}stream.{_token(to)}.>"

    def rights_flow(self, to: str | Token, sender: str | Token) -> str:
        return f"{self.root}flow.{_token(to)}.{_token(sender)}.*"

    def rights_publish(self, publisher: str | Token, topics: str | None) -> str:
        """Events on topics (`topic_pattern`; None: all)."""
        return f"{self.root}event.{_token(publisher)}.*.{topic_pattern('>' if topics is None else topics)}"

    def rights_hear(self, topics: str | None) -> str:
        return f"{self.root}event.*.*.{topic_pattern('>' if topics is None else topics)}"

    def rights_schemas(self, topics: str | None) -> str:
        words = topic_pattern(">" if topics is None else topics)
        return f"{self.root}schemas.{words}" + ("" if words.endswith(">") else ".*")

    def rights_cast(self, sender: str | Token, role: str | Token) -> str:
        return f"{self.root}cast.{_token(sender)}.*.{_token(role)}"

    def rights_hear_cast(self, role: str | Token) -> str:
        return f"{self.root}cast.*.*.{_token(role)}"

    def rights_handled(self, owner: str | Token) -> str:
        return f"{self.root}handled.{_token(owner)}.*"

    @property
    def rights_schedules(self) -> str:
        return f"{self.root}schedule.>"


def _said(method: str | None, name: str | Token | None, below: bool) -> str:
    if method is None:
        return ">"
    if isinstance(name, Token):
        return f"{tail(method, '-').rpartition('.')[0]}.{name}"
    return tail(method, name) + (".>" if below else "")


def _token(name: str | Token) -> str:
    return name.text if isinstance(name, Token) else escape(name)


def rights_key(agent: str | Token) -> str:
    """The keys of all instances of an agent, in the buckets `registry` and `health`."""
    return f"{_token(agent)}.*"


def rights_inbox(name: str | Token) -> str:
    """The inboxes of one participant: each has a prefix of its own, so that nobody hears another's answers."""
    return f"_INBOX.{_token(name)}.>"


def rights_api(verb: str) -> str:
    """A request to JetStream. `verb` with its tokens: `STREAM.INFO.JOURNAL`, `CONSUMER.MSG.NEXT.JOURNAL.*`."""
    return f"$JS.API.{verb}"


def rights_ack(stream: str, consumer: str | Token) -> str:
    """What is said of a message that a consumer delivered: done, again, never again."""
    return f"$JS.ACK.{stream}.{_token(consumer)}.>"


ALL_INBOXES: Final = "_INBOX.>"
USER_INFO: Final = "$SYS.REQ.USER.INFO"
"""Where the server tells a connection what that connection may do."""
MICRO: Final = "$SRV.>"
"""NATS micro discovery (ADR-32)."""
