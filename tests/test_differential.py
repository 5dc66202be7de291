"""What a host hears through the mesh is what it hears directly, byte for byte. The rest of the numbers: `scripts/differential`."""

from collections.abc import Iterator

import pytest

from mesh.wire.jsonrpc import scan
from tests import requirements
from tests.differential import ERAS, compare, steps
from tests.generated import HANDSHAKE, MODERN, Ask, Text, exchange, notification
from tests.helpers import Bridge, bridges

SEED = 2026
COUNT = 250


@pytest.fixture(scope="module")
def served(plane: str) -> Iterator[list[Bridge]]:
    with bridges(plane, ("differ", "differ")) as made:
        yield made


@pytest.mark.proves(
    "bytes", "vendor methods", "unknown notifications", "_meta", "nulls", "error.data", "unknown result fields", "ids", "progress order",
    "progress tokens", "large bodies", "cancelled",
)  # fmt: skip
@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
@pytest.mark.usefixtures("served")
async def test_no_difference(plane: str, era: str) -> None:
    report = await compare(plane, "differ", era, COUNT, SEED)
    assert report.differences == []
    assert report.exchanges == COUNT
    assert report.lines > 400


@pytest.mark.parametrize("era", [HANDSHAKE, MODERN])
def test_every_message_passes(era: str) -> None:
    """Each row of the table is among what `test_no_difference` sends and hears."""
    said: dict[str, set[str | None]] = {
        kind: set() for kind in ("client request", "server request", "client notification", "server notification")
    }
    said["client request"] |= {"initialize"} if era == HANDSHAKE else {"server/discover"}
    said["client notification"] |= {"notifications/initialized"} if era == HANDSHAKE else set()
    for step in steps(era, COUNT, SEED):
        said["client notification"] |= {scan(notification(note)).method for note in step.notes}
        for key in step.keys:
            known = exchange(key)
            values = {"id": known.id, "token": known.token or b"0"}
            said["client request"].add(scan(known.request.fill(**values)).method)
            if known.final is None:
                said["client notification"].add(scan(known.cancelled.fill(**values)).method)
            said["server request"] |= {scan(each.text).method for each in known.script if isinstance(each, Ask)}
            told = [each.fill(**values) for each in known.script if isinstance(each, Text) and each.pieces]
            said["server notification"] |= {scan(each).method for each in told}
    for each in requirements.MESSAGES:
        if ERAS[era] in each.eras and (each.kind, each.method, ERAS[era]) not in requirements.ELSEWHERE:
            assert each.method in said[each.kind], each


def test_an_exchange_is_made_again_from_its_key() -> None:
    for era in (HANDSHAKE, MODERN):
        for step in steps(era, 300, seed=5):
            for key in step.keys:
                known = exchange(key)
                values = {"id": known.id, "token": known.token or b""}
                found = known.request.match(known.request.fill(**values))
                assert found is not None
                assert {name: values[name] for name in found} == found


def test_a_changed_byte_is_seen() -> None:
    known = exchange("h1")
    line = known.request.fill(id=known.id, token=known.token or b"")
    at = line.index(b'"x-seed"')
    assert known.request.match(line[:at] + b" " + line[at:]) is None
