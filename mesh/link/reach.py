"""What we may call, by the broker's own word on our rights: the table that it holds us to.

Who shows a list shows of it what lies within reach, and what does not is refused before it is sent (`mesh.link.denial`). Where the broker
does not say what we may do, everything counts as within reach, and its refusal tells.
"""

from mesh.errors import Denied
from mesh.link.connection import Connection
from mesh.link.denial import action_of, denied
from mesh.subjects import ANY, EACH, Subjects


class Reach:
    """Of one participant. It follows the connection's rights."""

    def __init__(self, connection: Connection, subjects: Subjects, caller: str) -> None:
        self._connection = connection
        self._subjects = subjects
        self._caller = caller

    def anything_of(self, agent: str) -> bool:
        """Whether something of an agent (or role) may be called."""
        return self._may(self._subjects.probe(agent, ANY, self._caller))

    def all_of(self, agent: str, method: str) -> bool:
        """Whether `method` may be called with every name there is: then no list of such names hides any."""
        return self._may(self._subjects.rights_call(agent, self._caller, method, EACH)[0])

    def may_call(self, agent: str, method: str, name: str | None = None) -> bool:
        """Whether `method` may be called, with the tool, prompt or resource `name` if it takes one."""
        return self._may(self._subjects.call(agent, ANY, self._caller, method, name))

    def denial(self, agent: str, method: str, name: str | None = None) -> Denied | None:
        """What a caller is told that may not call this."""
        if self.may_call(agent, method, name):
            return None
        return denied(self._subjects.call(agent, ANY, self._caller, method, name), self._caller, action_of(agent, method, name))

    def _may(self, subject: str) -> bool:
        rights = self._connection.rights
        return rights is None or rights.may_publish(subject)
