"""`mesh publish` and `mesh events`, as a person runs them."""

import json
from pathlib import Path

from tests.cli_helpers import mesh
from tests.conftest import Broker


async def test_what_is_published_is_replayed_listed_and_deleted(broker: Broker, plane: str, tmp_path: Path) -> None:
    for number in range(3):
        words = ("build.done", f"n:={number}", "who=me", "--priority", "high", "--type", "t")
        done = await mesh("publish", *words, "--json", *broker.options, cwd=tmp_path)
        assert done.code == 0, done.err
        assert json.loads(done.out)["id"]
    told = await mesh(
        "events", "replay", "build.>", "--from", "10m", "--filter", "event.data.n > 0", "--json", *broker.options, cwd=tmp_path
    )
    events = [json.loads(line) for line in told.out.splitlines()]
    assert [(each["event"]["data"], each["priority"], each["publisher"]) for each in events] == [
        ({"n": number, "who": "me"}, "high", "local") for number in (1, 2)
    ]
    into = await mesh("events", "replay", "build.>", "--from", "10m", "--into", "student", *broker.options, cwd=tmp_path)
    assert into.out.strip() == "3 events to student"
    heard = await mesh("events", "subscriptions", "list", "--json", *broker.options, cwd=tmp_path)
    assert json.loads(heard.out) == []
    gone = await mesh("events", "subscriptions", "delete", "nightly", *broker.options, cwd=tmp_path)
    assert (gone.code, "no subscription" in gone.err) == (1, True)
    wrong = await mesh("events", "replay", "build.>", "--from", "yesterday", *broker.options, cwd=tmp_path)
    assert wrong.code == 2
