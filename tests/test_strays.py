"""What the control plane takes out of streams. What it takes, and that it takes nothing else, is in `tests/attacks/test_redirect.py`."""

from typing import Any

from mesh import Mesh
from mesh.link.jetstream import JetStream
from mesh.registry.strays import remove_words


class Counting(JetStream):
    """Notes which subjects it was asked for messages of."""

    read: list[str]

    async def api(self, tail: str, body: Any = None) -> dict[str, Any]:
        if ".MSG.GET." in tail:
            self.read.append(body["next_by_subj"])
        return await super().api(tail, body)


async def test_what_waits_is_looked_at_once(plane: str) -> None:
    """However long its receiver is away: each look reads what came since the last one."""
    looked: dict[str, int] = {}
    async with Mesh(name="sender", broker=plane) as sender, Mesh(name="operator", broker=plane) as operator:
        js, lane = Counting(operator.connection), sender.subjects.message("long-away", "sender", "critical")
        reads = []
        for new in (3, 1, 0):
            for _ in range(new):
                await sender.messages.publish_message("long-away", "t", priority="critical")
            js.read = []
            assert await remove_words(js, looked, crowded=1) == 0
            reads.append(js.read.count(lane))
        assert reads == [4, 2, 1]
        await JetStream(operator.connection).api("STREAM.PURGE.MESSAGES_CRITICAL", {"filter": lane})
        await remove_words(js, looked, crowded=1)
        assert lane not in looked
